import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { QueueModule } from 'nestmq';
import { db } from './database/db.js';
import { ImportModule } from './import/import.module.js';
import { ImportController } from './progress/import.controller.js';
import { Progress } from './progress/progress.js';
import { Reporter } from './progress/reporter.js';
import { Mailer } from './sign-up/mailer.js';
import { SignUpController } from './sign-up/sign-up.controller.js';
import { SignUp } from './sign-up/sign-up.js';
import { Smtp } from './sign-up/smtp.js';

const queue = {
  // A job of the import holds a connection while it writes, and TypeORM's pool has ten.
  concurrency: 8,
  // After a kill -9 the jobs that were running wait for their lease to end. Half the default: a demo is watched.
  leaseMs: 5_000,
  // At a Ctrl-C the signals of the jobs abort at once: those that take long stop at their next checkpoint.
  shutdown: { graceMs: 0 },
};

@Module({
  imports: [TypeOrmModule.forRoot(db), QueueModule.forRoot(queue), ImportModule],
  providers: [Mailer, SignUp, Smtp, Progress, Reporter],
  controllers: [SignUpController, ImportController],
})
export class AppModule {}
