import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Logger } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { User } from './user.entity.js';

/** Stands for a mail server: takes its time, and the mail goes to the log. */
@Injectable()
export class Smtp {
  private readonly logger = new Logger(Smtp.name);

  constructor(private readonly dataSource: DataSource) {}

  async welcome(userId: string, { signal }: { signal: AbortSignal }): Promise<void> {
    const user = await this.dataSource.manager.findOneByOrFail(User, { id: userId });
    await sleep(50, undefined, { signal });
    this.logger.log(`Mail to ${user.email}: "Welcome! Your account and this mail were one transaction."`);
    await this.dataSource.manager.update(User, { id: userId }, { welcomedAt: () => 'clock_timestamp()' });
  }
}
