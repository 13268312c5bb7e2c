import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { SystemEntry } from '../systems/index.js';
import type { Player } from './player.js';
import { remoteOf, type Remote, type Told } from './remote.js';

/** A player in a process of its own. It ends with this one. */
export interface PlayerProcess {
  readonly player: Remote<Player>;
  /** Told of jobs that have begun, a number at a time. */
  onBegun: (count: number) => void;
  /** By SIGKILL, with all that it has in hand. */
  kill(): Promise<void>;
  isAlive(): boolean;
  end(): Promise<void>;
}

export async function startPlayer(entry: SystemEntry): Promise<PlayerProcess> {
  const child = fork(fileURLToPath(new URL('./program.ts', import.meta.url)), {
    env: { ...process.env, BENCH_SYSTEM: entry.name },
    serialization: 'advanced',
  });
  const ended = once(child, 'exit');
  let ready: () => void = () => undefined;
  const started = new Promise<void>((resolve) => (ready = resolve));
  const player = remoteOf<Player>(child, ({ told, value }: Told) => {
    if (told === 'ready') ready();
    if (told === 'begun') playerProcess.onBegun(value);
  });
  const playerProcess: PlayerProcess = {
    player,
    onBegun: () => undefined,
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
    isAlive: () => child.connected,
    end: async () => {
      child.disconnect();
      await ended;
    },
  };
  await Promise.race([
    started,
    ended.then(([code]) => {
      throw new Error(`A process of ${entry.label} ended with ${String(code)} before it was ready.`);
    }),
  ]);
  return playerProcess;
}
