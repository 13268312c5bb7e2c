import { Inject, Injectable } from '@nestjs/common';
import { getDataSourceToken } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, RejectJob, type Job, type JobBatch } from 'nestmq';
import type { DataSource } from 'typeorm';

/** Where a batch ends its process, where that has `DIES` set: around the third of its jobs, and around its commit. */
export type BatchMoment =
  | 'never'
  | 'before the third job'
  | 'behind a statement of the third job'
  | 'behind the third job'
  | 'before the commit'
  | 'while the commit is sent'
  | 'behind the commit';

export interface BatchTask {
  readonly moment: BatchMoment;
  readonly rejects?: boolean;
}

const dies = process.env.DIES === '1';
const die = (): void => process.kill(process.pid, 'SIGKILL') as unknown as void;

const OPTIONS = { batch: 5, transactional: true, retries: 100, backoff: 10 } as const;

/** Transactional batch handlers. Each job leaves an effect and spawns a follow-up, which leaves another. */
@Injectable()
export class ExactlyOnceBatches {
  /** The batch that is about to commit; the process runs one at a time where it counts. */
  private about: BatchMoment = 'never';

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

  @JobHandler('work', { name: 'together', ...OPTIONS })
  async together(batch: JobBatch<BatchTask>): Promise<void> {
    this.tell(batch);
    for (const job of batch.jobs) await this.runOne(batch, job);
    this.about = momentOf(batch);
  }

  /** With a savepoint for every job. */
  @JobHandler('work', { name: 'each', ...OPTIONS })
  async each(batch: JobBatch<BatchTask>): Promise<void> {
    this.tell(batch);
    await batch.each((job) => this.runOne(batch, job));
    this.about = momentOf(batch);
  }

  @JobHandler('work', { name: 'follow-up', ...OPTIONS })
  async followUp(batch: JobBatch<string>): Promise<void> {
    for (const { manager, payload } of batch.jobs) {
      await manager.query(`INSERT INTO effect (job_id, note) VALUES ($1, 'followed')`, [payload]);
    }
  }

  private async runOne(batch: JobBatch<BatchTask>, job: Job<BatchTask>): Promise<void> {
    const { id, manager, payload } = job;
    const place = batch.jobs.indexOf(job) + 1;
    const moment = momentOf(batch);
    if (place === 3 && moment === 'before the third job') die();
    await manager.query(`INSERT INTO effect (job_id, note) VALUES ($1, 'written')`, [id]);
    if (place === 3 && moment === 'behind a statement of the third job') die();
    await this.jobs.spawn('follow-up', id, { manager });
    if (place === 4 && moment === 'behind the third job') die();
    if (payload.rejects) throw new RejectJob('told to reject');
  }

  private tell({ jobs }: JobBatch): void {
    process.send?.({ type: 'batch', size: jobs.length });
  }
}

const momentOf = ({ jobs }: JobBatch<BatchTask>): BatchMoment => (dies ? jobs[0]!.payload.moment : 'never');
