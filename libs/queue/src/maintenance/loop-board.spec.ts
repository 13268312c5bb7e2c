import { describe, expect, it } from '@jest/globals';
import { LoopBoard } from './loop-board.js';

/** As @nestjs/schedule has it: a name twice, or none, is an error. */
class Registry {
  readonly timeouts = new Map<string, NodeJS.Timeout>();

  addTimeout(name: string, timer: NodeJS.Timeout): void {
    if (this.timeouts.has(name)) throw new Error(`Timeout with the given name (${name}) already exists. Ignored.`);
    this.timeouts.set(name, timer);
  }

  deleteTimeout(name: string): void {
    if (!this.timeouts.delete(name)) throw new Error(`No Timeout was found with the given name (${name}).`);
  }
}

describe('LoopBoard', () => {
  it('shows a loop under its name, and takes it down', () => {
    const registry = new Registry();
    const board = new LoopBoard(registry);
    board.show('nestmq default poll', 1_000);
    expect([...registry.timeouts.keys()]).toEqual(['nestmq default poll']);
    board.hide('nestmq default poll');
    expect(registry.timeouts.size).toBe(0);
  });

  it('does not mind that somebody else has taken it down', () => {
    const registry = new Registry();
    const board = new LoopBoard(registry);
    board.show('nestmq default poll', 1_000);
    registry.timeouts.clear();
    expect(() => board.hide('nestmq default poll')).not.toThrow();
  });

  it('leaves a timeout of the same name to the application', () => {
    const registry = new Registry();
    const own = setImmediate(() => undefined) as unknown as NodeJS.Timeout;
    registry.addTimeout('nestmq default poll', own);
    const board = new LoopBoard(registry);
    board.show('nestmq default poll', 1_000);
    board.hide('nestmq default poll');
    expect(registry.timeouts.get('nestmq default poll')).toBe(own);
  });
});
