import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from '@jest/globals';
import { hasEnded, identifyProcess } from './process-identity.js';

const parts = (): string[] => identifyProcess()!.split(' ');

describe('hasEnded', () => {
  it('says of this process that it has not, and of nobody’s that it does not know', () => {
    expect(hasEnded(identifyProcess())).toBe(false);
    expect(hasEnded(null)).toBe(false);
  });

  it('says of a child whether it has', async () => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
    const identity = identifyProcess(child.pid);
    expect(hasEnded(identity)).toBe(false);
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
    expect(hasEnded(identity)).toBe(true);
  });

  it('knows that another process has an id that has come again', () => {
    const [boot, space, pid] = parts();
    expect(hasEnded([boot, space, pid, '1'].join(' '))).toBe(true);
  });

  it('does not judge processes of another machine, or of another container', () => {
    const [boot, space] = parts();
    expect(hasEnded(`another-boot ${space} 999999999 1`)).toBe(false);
    expect(hasEnded(`${boot} pid:[1] 999999999 1`)).toBe(false);
  });
});
