import pg from 'pg';
import { LOG } from './witness.js';

/** Writes down what a process does, each event by a statement of its own. */
export class EventLog {
  private readonly pool: pg.Pool;

  constructor(url: string) {
    this.pool = new pg.Pool({ connectionString: url, max: 3, options: '-c synchronous_commit=off' });
    this.pool.on('error', () => undefined);
  }

  async add(type: string, facts: object): Promise<void> {
    await this.pool.query({ name: 'log', text: LOG, values: [type, JSON.stringify(facts)] });
  }

  async end(): Promise<void> {
    await this.pool.end();
  }
}
