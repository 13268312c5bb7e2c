import type { QueueEvent } from 'nestmq';
import { openApps, type TestApp } from './app.js';
import type { Tables } from './tables.js';
import { until } from './until.js';

type Type = QueueEvent['type'];
type Heard = Pick<TestApp, 'events'>;
export type EventOf<T extends Type> = Extract<QueueEvent, { type: T }>;

/** What has been told so far. To be read behind another event, behind `untilDone`, or when the application is closed. */
export const eventsOf = <T extends Type>({ events }: Heard, type: T): EventOf<T>[] =>
  events.filter((event) => event.type === type) as EventOf<T>[];

/**
 * Waits for so many events of a type, and answers all of it. A runner tells of an end when it has the database's answer,
 * so a test that has seen the end in a table must wait for the event.
 */
export async function untilEvents<T extends Type>(app: Heard, type: T, count = 1): Promise<EventOf<T>[]> {
  await until(() => eventsOf(app, type).length >= count, { what: `there are ${count} events of type ${type}` });
  return eventsOf(app, type);
}

const ENDS: ReadonlySet<Type> = new Set(['completed', 'retrying', 'snoozed', 'dead', 'cancelled', 'released', 'lease-lost']); // prettier-ignore

/** Whether the end of every run has been told whose start has. */
function allEndsTold({ events }: Heard): boolean {
  const open = new Map<string, number>();
  for (const event of events) {
    if (!('id' in event)) continue;
    const runs = open.get(event.id) ?? 0;
    if (event.type === 'started') open.set(event.id, runs + 1);
    // Those taken ahead are given back without a start.
    else if (ENDS.has(event.type) && runs > 0) open.set(event.id, runs - 1);
  }
  return [...open.values()].every((runs) => runs === 0);
}

/** Waits until no job and no lease is left, and the applications of this file have told the end of each of their runs. */
export const untilDone = (tables: Tables): Promise<boolean> =>
  until(async () => (await tables.drained()) && openApps().every(allEndsTold), { what: 'all is done, and told' });
