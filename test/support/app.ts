import { afterEach } from '@jest/globals';
import type { INestApplicationContext, ModuleMetadata, Type } from '@nestjs/common';
import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DeadLetters, JobSpawner, Queue, QueueModule, type QueueEvent, type QueueModuleOptions } from 'nestmq';
import { DataSource, type DataSourceOptions } from 'typeorm';

export interface TestAppOptions extends Pick<ModuleMetadata, 'providers' | 'controllers' | 'imports'> {
  readonly url: string;
  readonly queue?: QueueModuleOptions;
  readonly typeorm?: Partial<DataSourceOptions>;
}

export interface TestApp {
  readonly app: INestApplicationContext;
  readonly jobs: JobSpawner;
  readonly queue: Queue;
  readonly deadLetters: DeadLetters;
  readonly dataSource: DataSource;
  /** Every event since the boot. */
  readonly events: QueueEvent[];
  get<T>(token: Type<T> | string): T;
  close(): Promise<void>;
}

/** A poll so rare that only notifications, due times and restarts can be what starts a job. */
export const POLLING_OFF = { pollMs: 60_000 } as const;

const open = new Set<TestApp>();

/** Those that are not closed. */
export const openApps = (): readonly TestApp[] => [...open];

// A test that leaves its application open fails here, and does not disturb the next one.
afterEach(async () => {
  const left = [...open];
  await Promise.all(left.map((app) => app.close()));
  if (left.length > 0) throw new Error(`${left.length} application(s) were left open. Close them in the test.`);
});

/** Boots an application with the queue on the given database. */
export async function startApp({ url, queue = {}, typeorm = {}, ...metadata }: TestAppOptions): Promise<TestApp> {
  const module = await Test.createTestingModule({
    ...metadata,
    imports: [
      TypeOrmModule.forRoot({ type: 'postgres', url, retryAttempts: 0, ...(typeorm as object) }),
      QueueModule.forRoot(queue),
      ...(metadata.imports ?? []),
    ],
  }).compile();
  const events: QueueEvent[] = [];
  module.get(Queue).events.subscribe((event) => events.push(event));
  const testApp: TestApp = {
    app: module,
    jobs: module.get(JobSpawner),
    queue: module.get(Queue),
    deadLetters: module.get(DeadLetters),
    dataSource: module.get(DataSource),
    events,
    get: (token) => module.get(token),
    close: async () => {
      if (open.delete(testApp)) await module.close();
    },
  };
  open.add(testApp);
  await module.init();
  return testApp;
}
