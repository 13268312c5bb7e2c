import type { Logger } from '@nestjs/common';
import { messageOf } from '../job/errors.js';
import { run } from '../statements/statement.js';
import { notify, notifyChannelOf } from '../statements/wake-up.js';
import type { Connection } from './connection.js';

/** Messages that one statement sends at most. */
const BATCH = 500;

/**
 * Sends wake-ups after what they tell of is committed, as many at once as gather while the last ones are under way. A
 * lost one is found by polling, so a failure is told once and not repeated.
 */
export class Notifier {
  private readonly messages = new Set<string>();
  private working: Promise<void> | null = null;

  constructor(
    private readonly connection: Connection,
    private readonly schema: string,
    private readonly logger: Logger,
  ) {}

  send(messages: Iterable<string>): void {
    for (const message of messages) this.messages.add(message);
    if (this.messages.size > 0) this.working ??= this.work();
  }

  /** Resolves when all have gone out. */
  async idle(): Promise<void> {
    await this.working;
  }

  private async work(): Promise<void> {
    const notifyChannel = notifyChannelOf(this.schema);
    while (this.messages.size > 0) {
      const batch = [...this.messages].slice(0, BATCH);
      for (const message of batch) this.messages.delete(message);
      try {
        await this.connection.use((client) =>
          run(this.connection.sqlClient(client), notify, { notifyChannel, messages: batch }),
        );
      } catch (error) {
        this.logger.warn(`Waking the runners failed, they will find the jobs by polling: ${messageOf(error)}`);
      }
    }
    this.working = null;
  }
}
