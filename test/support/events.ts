import type { QueueEvent } from 'nestmq';
import type { TestApp } from './app.js';
import { until } from './until.js';

type Type = QueueEvent['type'];
export type EventOf<T extends Type> = Extract<QueueEvent, { type: T }>;

/** What has been told so far. To be read behind another event, or when the application is closed. */
export const eventsOf = <T extends Type>({ events }: Pick<TestApp, 'events'>, type: T): EventOf<T>[] =>
  events.filter((event) => event.type === type) as EventOf<T>[];

/**
 * Waits for so many events of a type, and answers all of it. A runner tells of an end when it has the database's answer,
 * so a test that has seen the end in a table must wait for the event.
 */
export async function untilEvents<T extends Type>(app: Pick<TestApp, 'events'>, type: T, count = 1) {
  await until(() => eventsOf(app, type).length >= count, { what: `there are ${count} events of type ${type}` });
  return eventsOf(app, type);
}
