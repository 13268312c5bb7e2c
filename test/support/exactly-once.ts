import { Inject, Injectable } from '@nestjs/common';
import { getDataSourceToken } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, type Job } from 'nestmq';
import type { DataSource } from 'typeorm';

/** Where a run ends its process, where that has `DIES` set: around each statement, and around what the engine sends. */
export type Moment =
  | 'never'
  | 'before the first statement'
  | 'behind the first statement'
  | 'behind the spawn'
  | 'before the commit'
  | 'while the commit is sent'
  | 'behind the commit';

const dies = process.env.DIES === '1';
const die = (): void => process.kill(process.pid, 'SIGKILL') as unknown as void;

/** Transactional handlers, each of which leaves an effect; the first one spawns a job of the second. */
@Injectable()
export class ExactlyOnce {
  /** The run that is about to commit; the process runs one job at a time where it counts. */
  about: Moment = 'never';

  constructor(
    @Inject(JobSpawner) private readonly jobs: JobSpawner,
    @Inject(getDataSourceToken()) dataSource: DataSource,
  ) {
    dataSource.subscribers.push({
      beforeTransactionCommit: () => {
        if (this.about === 'before the commit') die();
        if (this.about === 'while the commit is sent') setImmediate(die);
      },
      afterTransactionCommit: () => {
        if (this.about === 'behind the commit') die();
      },
    });
  }

  @JobHandler('work', { name: 'work', transactional: true, retries: 100, backoff: 10 })
  async run({ id, payload, manager }: Job<Moment>): Promise<void> {
    const moment = dies ? payload : 'never';
    if (moment === 'before the first statement') die();
    await manager.query(`INSERT INTO effect (job_id, note) VALUES ($1, 'written')`, [id]);
    if (moment === 'behind the first statement') die();
    await this.jobs.spawn('follow-up', id, { manager });
    if (moment === 'behind the spawn') die();
    this.about = moment;
  }

  @JobHandler('work', { name: 'follow-up', transactional: true, retries: 100, backoff: 10 })
  async followUp({ payload, manager }: Job<string>): Promise<void> {
    await manager.query(`INSERT INTO effect (job_id, note) VALUES ($1, 'followed')`, [payload]);
  }
}
