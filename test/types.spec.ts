import { describe, expect, it } from '@jest/globals';
import {
  JobHandler,
  type HandlerMethod,
  type Job,
  type JobSpawner,
  type PayloadOf,
  type Reservation,
  type SpawnResult,
} from 'nestmq';
import type { EntityManager } from 'typeorm';

// `npm run typecheck` is the test: an expected error that does not come is an error. The calls are never made.

class Mailer {
  readonly from = 'a@example.org';

  @JobHandler('mail')
  async welcome(_job: Job<{ userId: string; cc?: string[] }>): Promise<void> {}

  @JobHandler('mail')
  tick(_job: Job): void {}

  @JobHandler('mail')
  none(_job: Job<undefined>): void {}

  send(_to: string): void {}
}

abstract class Base {
  abstract handle(job: Job<number>): Promise<string>;
}

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

/** Compiles for a type that is `true` only. */
type Holds<Claim extends true> = Claim;

function typedCalls(jobs: JobSpawner): Promise<SpawnResult | SpawnResult[]>[] {
  return [
    jobs.spawn(Mailer, 'welcome', { userId: '1' }),
    jobs.spawn(Mailer, 'welcome', { userId: '1', cc: ['2'] }, { key: 'k', delay: '5s', backoff: { type: 'fixed' } }),
    jobs.spawn(Mailer, 'tick', { anything: true }),
    jobs.spawn(Mailer, 'none', undefined),
    jobs.spawn(Base, 'handle', 5),
    jobs.spawn('Mailer.welcome', { whatever: 1 }),
    jobs.spawn('Mailer.welcome'),
    jobs.spawnMany(Mailer, 'welcome', [{ payload: { userId: '1' }, key: 'k' }]),
    jobs.spawnMany([{ name: 'Mailer.welcome', payload: 1 }]),
    // @ts-expect-error a payload of the wrong type
    jobs.spawn(Mailer, 'welcome', { userId: 1 }),
    // @ts-expect-error a payload without a field
    jobs.spawn(Mailer, 'welcome', {}),
    // @ts-expect-error a payload with a field too many
    jobs.spawn(Mailer, 'welcome', { userId: '1', bcc: [] }),
    // @ts-expect-error no payload, where the handler wants one
    jobs.spawn(Mailer, 'welcome'),
    // @ts-expect-error a payload where the handler wants none
    jobs.spawn(Mailer, 'none', 5),
    // @ts-expect-error a method that is not there
    jobs.spawn(Mailer, 'welcom', { userId: '1' }),
    // @ts-expect-error a method that takes no job
    jobs.spawn(Mailer, 'send', 'b@example.org'),
    // @ts-expect-error a property that is no method
    jobs.spawn(Mailer, 'from', 'x'),
    // @ts-expect-error an abstract handler's payload counts too
    jobs.spawn(Base, 'handle', 'five'),
    // @ts-expect-error an instance instead of the class
    jobs.spawn(new Mailer(), 'welcome', { userId: '1' }),
    // @ts-expect-error an option that is not there
    jobs.spawn(Mailer, 'welcome', { userId: '1' }, { order: true }),
    // @ts-expect-error a duration with an unknown unit
    jobs.spawn(Mailer, 'welcome', { userId: '1' }, { delay: '5w' }),
    // @ts-expect-error a backoff function cannot be stored with a job
    jobs.spawn(Mailer, 'welcome', { userId: '1' }, { backoff: () => 5 }),
    // @ts-expect-error a date as text
    jobs.spawn(Mailer, 'welcome', { userId: '1' }, { runAt: '2030-01-01' }),
    // @ts-expect-error an item of the wrong type
    jobs.spawnMany(Mailer, 'welcome', [{ payload: { userId: 1 } }]),
    // @ts-expect-error an item without a name
    jobs.spawnMany([{ payload: 1 }]),
  ];
}

/** A reservation is answered where `hold` is given, and nowhere else. */
function heldCalls(jobs: JobSpawner): Promise<Reservation | Reservation[]>[] {
  return [
    jobs.spawn(Mailer, 'welcome', { userId: '1' }, { hold: '5m', key: 'k' }),
    jobs.spawn('Mailer.welcome', { whatever: 1 }, { hold: 5_000 }),
    jobs.spawnMany(Mailer, 'welcome', [{ payload: { userId: '1' }, hold: '5m' }]),
    jobs.spawnMany([{ name: 'Mailer.welcome', payload: 1, hold: '5m' }]),
    // @ts-expect-error a plain job has no reservation
    jobs.spawn(Mailer, 'welcome', { userId: '1' }, { key: 'k' }),
    // @ts-expect-error not every item has one
    jobs.spawnMany(Mailer, 'welcome', [{ payload: { userId: '1' }, hold: '5m' }, { payload: { userId: '2' } }]),
    // @ts-expect-error a payload of the wrong type
    jobs.spawn(Mailer, 'welcome', { userId: 1 }, { hold: '5m' }),
    // @ts-expect-error an option that is not there
    jobs.spawn(Mailer, 'welcome', { userId: '1' }, { hold: '5m', dealy: '5s' }),
  ];
}

function committed(jobs: JobSpawner, reservation: Reservation): Promise<string[]>[] {
  return [
    jobs.commit([reservation, '5']),
    // @ts-expect-error what a plain spawn has answered
    jobs.commit([{ id: '5', isNew: true }]),
  ];
}

class Refused {
  // @ts-expect-error only methods that take a job can be handlers
  @JobHandler('mail')
  send(_to: string): void {}

  // @ts-expect-error an option that is not there
  @JobHandler('mail', { retires: 3 })
  welcome(_job: Job): void {}
}

function readOnly(job: Job<{ userId: string }>, manager: EntityManager): void {
  // @ts-expect-error a handler cannot change what it was given
  job.attempt = 0;
  // @ts-expect-error nor the payload as a whole
  job.payload = { userId: '2' };
  // @ts-expect-error a manager stands in options
  void job.complete(manager);
  void job.checkpoint({ payload: { userId: '2' }, bytes: null, extraRetries: 1, keepAlive: '1m' }, { manager });
  // @ts-expect-error a checkpoint's payload is the job's
  void job.checkpoint({ payload: { userId: 2 } });
}

describe('types', () => {
  it('refuse what a handler does not take: the compiler has found every expected error in these', () => {
    expect([typedCalls, heldCalls, committed, Refused, readOnly]).toHaveLength(5);
  });

  it('infer the payload and the methods of a handler class', () => {
    const claim1: Holds<Equal<PayloadOf<Mailer, 'welcome'>, { userId: string; cc?: string[] }>> = true;
    const claim2: Holds<Equal<HandlerMethod<Mailer>, 'welcome' | 'tick' | 'none'>> = true;
    const claim3: Holds<Equal<PayloadOf<Base, 'handle'>, number>> = true;
    const claim4: Holds<Equal<Job<{ a: 1 }>['payload'], { a: 1 }>> = true;
    const claim5: Holds<Equal<Job['payload'], unknown>> = true;
    expect([claim1, claim2, claim3, claim4, claim5]).toEqual([true, true, true, true, true]);
  });
});
