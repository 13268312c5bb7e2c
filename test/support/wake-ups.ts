import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { until } from './until.js';

/** What a runner would hear: place, job, priority, channel and key. */
export type HeardWakeUp = readonly [dueMicros: number, jobId: string, priority: number, channel: string, key: string];

export interface WakeUps {
  /**
   * Every wake-up about jobs so far. A marker is sent behind them and waited for, so what was sent before has arrived:
   * a wake-up that is not there now will not come.
   */
  heard(): Promise<HeardWakeUp[]>;
  close(): Promise<void>;
}

/** Listens as a runner does, on a connection of its own. */
export async function listenToWakeUps(url: string, schema = 'nestmq'): Promise<WakeUps> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const messages: unknown[][] = [];
  client.on('notification', ({ payload }) => messages.push(JSON.parse(payload ?? '[]') as unknown[]));
  await client.query(`LISTEN ${schema}_wake_up`);
  return {
    heard: async () => {
      const marker = randomUUID();
      await client.query('SELECT pg_notify($1, $2)', [`${schema}_wake_up`, JSON.stringify(['marker', marker])]);
      await until(() => messages.some(([kind, token]) => kind === 'marker' && token === marker), {
        what: 'the marker behind the wake-ups has arrived',
      });
      return messages.filter(([first]) => typeof first === 'number') as unknown as HeardWakeUp[];
    },
    close: () => client.end(),
  };
}
