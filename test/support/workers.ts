import type { WorkerMessage } from '../processes/worker.js';
import { startChild, type Child } from './child.js';
import { until } from './until.js';

export interface WorkerProcess extends Child {
  /** Waits until a run has begun, and answers it. */
  started(matches?: { id?: string; attempt?: number }): Promise<Extract<WorkerMessage, { type: 'started' }>>;
  /** All runs that have begun by now: it may have said so a moment ago. */
  starts(): Promise<Extract<WorkerMessage, { type: 'started' }>[]>;
  /** What it has told so far. */
  of<Type extends WorkerMessage['type']>(type: Type): Extract<WorkerMessage, { type: Type }>[];
}

/** Boots the application of `processes/worker.ts` in a process of its own, and waits until it has booted. */
export async function startWorker(url: string, env: Record<string, string> = {}): Promise<WorkerProcess> {
  const child = startChild('worker.ts', { URL: url, ...env });
  const of: WorkerProcess['of'] = (type) =>
    (child.messages as WorkerMessage[]).filter((message) => message.type === type) as never;
  await until(() => of('ready').length || child.process.exitCode !== null, {
    what: 'the second process has booted',
  });
  return {
    ...child,
    of,
    starts: async () => {
      const echoes = of('echo').length;
      child.send('echo');
      await until(() => of('echo').length > echoes, { what: 'the second process has told all so far' });
      return of('started');
    },
    started: ({ id, attempt } = {}) =>
      until(() => of('started').find((run) => (id ?? run.id) === run.id && (attempt ?? run.attempt) === run.attempt), {
        what: `job ${id ?? ''} runs in the second process`,
      }),
  };
}
