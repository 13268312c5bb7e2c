import { Injectable } from '@nestjs/common';
import { JobHandler, type Job } from 'nestmq';
import { Smtp } from './smtp.js';

@Injectable()
export class Mailer {
  constructor(private readonly smtp: Smtp) {}

  @JobHandler('mail', { retries: 4, backoff: '1s', timeout: '30s' })
  async welcome(job: Job<{ userId: string }>) {
    await this.smtp.welcome(job.payload.userId, { signal: job.signal });
  }
}
