import type { DataSource, EntityManager } from 'typeorm';
import { POOL_SIZE, type NewJob, type Transactions } from './system.js';

/** An application's own DataSource, beside a queue that does not know of TypeORM. It is there once it is used. */
export class OwnTransactions implements Transactions {
  private dataSource: Promise<DataSource> | null = null;

  constructor(
    private readonly url: string,
    readonly send: (manager: EntityManager, job: NewJob) => Promise<unknown>,
  ) {}

  async run<T>(work: (manager: EntityManager) => Promise<T>): Promise<T> {
    this.dataSource ??= open(this.url);
    return (await this.dataSource).transaction(work);
  }

  async close(): Promise<void> {
    await (await this.dataSource)?.destroy();
  }
}

async function open(url: string): Promise<DataSource> {
  const typeorm = await import('typeorm');
  return new typeorm.DataSource({ type: 'postgres', url, poolSize: POOL_SIZE }).initialize();
}
