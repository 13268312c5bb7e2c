import { beforeEach } from '@jest/globals';
import type { HandlerOptions, Job, QueueEvent, QueueModuleOptions } from 'nestmq';
import type { DataSourceOptions } from 'typeorm';
import { POLLING_OFF, startApp, type TestApp } from './app.js';
import type { Tables } from './tables.js';
import { workWith, type Behaviour } from './work.js';

export const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);

/** What has happened to jobs so far. */
export const ofJobs = (app: TestApp): string[] =>
  app.events.map(({ type }) => type).filter((type) => type !== 'listening');

interface Boot {
  (
    behaviour: Behaviour,
    options?: HandlerOptions,
    app?: { queue?: QueueModuleOptions; typeorm?: Partial<DataSourceOptions> },
  ): Promise<TestApp>;
  /** The one booted last. */
  app: TestApp;
}

/** For tests of transactional handlers: a table in which they leave their effects, and the application that has one. */
export function transactional(database: { readonly url: string }, tables: Tables) {
  beforeEach(async () => {
    await tables.clear();
    await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint, note text, UNIQUE (job_id, note))');
    await tables.sql('TRUNCATE effect');
  });
  const start = async (...[behaviour, options, { queue, typeorm } = {}]: Parameters<Boot>): Promise<TestApp> => {
    const backoff = { type: 'fixed', base: 1, jitter: 0 } as const;
    const Work = workWith({ transactional: true, backoff, ...options }, behaviour);
    boot.app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, ...queue },
      providers: [Work],
      ...(typeorm && { typeorm }),
    });
    return boot.app;
  };
  const boot = start as Boot;
  return {
    boot,
    /** Leaves an effect, in the run's transaction. */
    write: ({ id, manager }: Job, note = 'written'): Promise<unknown> =>
      manager.query('INSERT INTO effect VALUES ($1, $2)', [id, note]),
    effects: (): Promise<{ job_id: string; note: string }[]> =>
      tables.sql('SELECT job_id::text, note FROM effect ORDER BY job_id, note'),
  };
}
