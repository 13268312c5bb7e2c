import { beforeEach, describe, expect, it } from '@jest/globals';
import { TypeOrmModule } from '@nestjs/typeorm';
import * as nestmq from 'nestmq';
import { QueueModule, type HandlerOptions, type Job, type QueueModuleOptions } from 'nestmq';
import type { DataSource, EntityManager } from 'typeorm';
import { POLLING_OFF, type TestApp } from './support/app.js';
import { connect, failedBoot } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { untilAborted, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const idle = { runner: false } as const;

/** What an application is refused that only sends. */
const refused = (
  work: (app: TestApp) => unknown,
  options: HandlerOptions = {},
  queue: QueueModuleOptions = {},
): Promise<unknown> =>
  withApp({ ...database, queue: { ...idle, ...queue }, providers: [workWith(options)] }, (app) =>
    Promise.resolve(work(app)).catch((error: unknown) => error),
  );

/** What a run of a job is refused. */
async function refusedInRun(
  behaviour: (job: Job, app: TestApp) => unknown,
  options: HandlerOptions = {},
): Promise<unknown> {
  let error: unknown;
  const Work = workWith({ retries: 0, ...options }, async (job) => {
    error ??= await Promise.resolve(behaviour(job, app)).catch((thrown: unknown) => thrown);
  });
  let app!: TestApp;
  return withApp({ ...database, queue: POLLING_OFF, providers: [Work] }, async (started) => {
    app = started;
    await app.jobs.spawn('work', null);
    return until(() => error, { what: 'it is refused' });
  });
}

/** The error with which a run of a job has ended. */
async function errorOfRun(behaviour: Behaviour, options: HandlerOptions): Promise<unknown> {
  const providers = [workWith({ retries: 0, ...options }, behaviour)];
  return withApp({ ...database, queue: POLLING_OFF, providers }, async ({ jobs, events }) => {
    await jobs.spawn('work', null);
    return until(() => events.flatMap((event) => (event.type === 'dead' ? [event.error] : []))[0], {
      what: 'it is dead',
    });
  });
}

const refusedBoot = (queue: QueueModuleOptions, ...providers: NonNullable<Parameters<typeof failedBoot>[0]['providers']>) =>
  failedBoot({ imports: [TypeOrmModule.forRoot({ type: 'postgres', url: database.url }), QueueModule.forRoot(queue)], providers }); // prettier-ignore

const inTransaction = (work: (app: TestApp, manager: EntityManager) => Promise<unknown>) => (app: TestApp) =>
  app.dataSource.transaction((manager) => work(app, manager));

const fails: Behaviour = () => {
  throw new Error('told to fail');
};

/** As far as anybody looks at it. */
const MYSQL = { options: { type: 'mysql' }, createQueryRunner: () => null } as unknown as DataSource;

/** How each error comes about; answers it. */
const ERRORS: Record<string, readonly [code: string, provoke: () => Promise<unknown>]> = {
  InvalidOptionsError: ['invalid_options', () => refused(({ jobs }) => jobs.spawn('work', null, { delay: -1 }))],
  DuplicateHandlerError: ['duplicate_handler', () => refusedBoot(idle, workWith(), workWith())],
  DuplicateInstanceError: [
    'duplicate_instance',
    async () => {
      const module = { dataSource: await connect(database.url), ...idle };
      return failedBoot({ imports: [QueueModule.forRoot(module), QueueModule.forRoot({ ...module, pollMs: 500 })] });
    },
  ],
  SchemaMissingError: ['schema_missing', () => refusedBoot({ ...idle, schema: 'elsewhere' })],
  UnsupportedDataSourceError: [
    'unsupported_data_source',
    () => failedBoot({ imports: [QueueModule.forRoot({ dataSource: MYSQL })] }),
  ],
  UnknownJobError: ['unknown_job', () => refused(({ jobs }) => jobs.spawn('nobody', null))],
  PayloadInvalidError: ['payload_invalid', () => refused(({ jobs }) => jobs.spawn('work', 1n))],
  PayloadTooLargeError: [
    'payload_too_large',
    () => refused(({ jobs }) => jobs.spawn('work', 'four'), {}, { maxPayloadBytes: 5 }),
  ],
  SpawnItemError: ['spawn_item_invalid', () => refused(({ jobs }) => jobs.spawnMany([{ name: 'work', payload: 1n }]))],
  PartitionOutOfRangeError: [
    'partition_out_of_range',
    () => refused(({ jobs }) => jobs.spawn('work', null, { partition: 4 }), { partitions: 4 }),
  ],
  PartitionCountMismatchError: [
    'partition_count_mismatch',
    async () => {
      await refused(() => undefined, { partitions: 4 });
      return refusedBoot(idle, workWith({ partitions: 2 }));
    },
  ],
  ReservationError: [
    'reservation_invalid',
    () =>
      refused(async ({ jobs }) => {
        const reservation = await jobs.spawn('work', null, { hold: '1h' });
        await reservation.release();
        await reservation.commit();
      }),
  ],
  InvalidManagerError: [
    'invalid_manager',
    () => refused(({ jobs, dataSource }) => jobs.spawn('work', null, { manager: dataSource.manager })),
  ],
  TransactionAbortedError: [
    'transaction_aborted',
    () =>
      refused(
        inTransaction(async ({ jobs }, manager) => {
          await manager.query('SELECT 1 / 0').catch(() => undefined);
          await jobs.spawn('work', null, { manager });
        }),
      ),
  ],
  DatabaseUnavailableError: [
    'database_unavailable',
    () =>
      refused(
        inTransaction(async ({ jobs }, manager) => {
          await manager.query('SELECT pg_terminate_backend(pg_backend_pid())').catch(() => undefined);
          await jobs.spawn('work', null, { manager });
        }),
      ),
  ],
  QueueClosedError: [
    'queue_closed',
    () =>
      refused(async (app) => {
        await app.close();
        await app.jobs.spawn('work', null);
      }),
  ],
  JobNotFoundError: ['not_found', () => refused(({ queue }) => queue.cancel('77'))],
  JobDeadError: [
    'job_dead',
    () => {
      const app = { ...database, queue: POLLING_OFF, providers: [workWith({ retries: 0, retention: '1h' }, fails)] };
      return withApp(app, async ({ jobs, queue }) => {
        const { id } = await jobs.spawn('work', null);
        return queue.waitFor(id).catch((error: unknown) => error);
      });
    },
  ],
  JobCancelledError: [
    'job_cancelled',
    () =>
      refusedInRun(async (job, { queue }) => {
        await queue.cancel(job.id);
        await untilAborted(job);
      }),
  ],
  WaitTimeoutError: [
    'wait_timeout',
    () =>
      refused(async ({ jobs, queue }) => queue.waitFor((await jobs.spawn('work', null)).id, { timeout: 1 }), {
        retention: '1h',
      }),
  ],
  ChannelBusyError: ['channel_busy', () => refusedInRun((_, { queue }) => queue.clear(['work']))],
  JobTimeoutError: ['job_timeout', () => errorOfRun(untilAborted, { timeout: 1 })],
  NotTransactionalError: ['not_transactional', () => errorOfRun((job) => job.manager, {})],
  LeaseLostError: [
    'lease_lost',
    () =>
      refusedInRun(async (job) => {
        await tables.sql('DELETE FROM nestmq.lease');
        await job.complete();
      }),
  ],
  InvalidTransitionError: [
    'invalid_transition',
    () =>
      refusedInRun(async (job) => {
        await job.complete();
        await job.complete();
      }),
  ],
  IdempotencyConflictError: [
    'idempotency_conflict',
    () =>
      refused(async ({ jobs }) => {
        await jobs.spawn('work', 1, { idempotencyKey: 'key' });
        await jobs.spawn('work', 2, { idempotencyKey: 'key', strict: true });
      }),
  ],
  TransactionConflictError: [
    'transaction_conflict',
    () =>
      refused(
        inTransaction(async ({ jobs }, manager) => {
          await jobs.spawn('work', 1, { idempotencyKey: 'key', manager });
          await jobs.spawn('work', 1, { idempotencyKey: 'key' });
        }),
        {},
        { idempotencyWaitMs: 50 },
      ),
  ],
};

const exported = Object.entries(nestmq).filter(
  ([, value]) => typeof value === 'function' && value.prototype instanceof nestmq.QueueError,
);

describe('an error', () => {
  it.each(Object.entries(ERRORS))('%s comes with its code, its name and a cure', async (name, [code, provoke]) => {
    const error = (await provoke()) as nestmq.QueueError;
    expect({ name: error.name, code: error.code }).toEqual({ name, code });
    expect(error).toBeInstanceOf(Object.fromEntries(exported)[name]);
    expect(error.message.length).toBeGreaterThan(15);
    expect(error.message).not.toContain('undefined');
  });

  // Nobody throws it at an application: it is why a job waits.
  it('PayloadVersionError stands with a job of a newer release', async () => {
    await refused(({ jobs }) => jobs.spawn('work', null), { version: 2 });
    await withApp({ ...database, queue: POLLING_OFF, providers: [workWith()] }, async ({ events, queue }) => {
      const put = await until(() => events.find((event) => event.type === 'snoozed'), { what: 'it is put off' });
      const error = new nestmq.PayloadVersionError('work', 2, 1);
      expect(error.code).toBe('payload_version');
      expect((await queue.get(put.id))?.lastError).toContain(error.message);
    });
  });

  it('of each exported class is among these', () => {
    const tested = [...Object.keys(ERRORS), 'PayloadVersionError'];
    expect(tested.toSorted()).toEqual(exported.map(([name]) => name).toSorted());
  });
});
