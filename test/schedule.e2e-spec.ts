import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { Interval, ScheduleModule, SchedulerRegistry } from '@nestjs/schedule';
import { JobHandler, JobSpawner, QueueModule, type Job } from 'nestmq';
import { boot, connect, type Booted } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { until } from './support/until.js';

/** Long enough to be told from every other interval of the process, and short enough to fire. */
const EVERY_MS = 37;

@Injectable()
class Reporter {
  reports = 0;
  ran = 0;

  @Interval('report', EVERY_MS)
  report(): void {
    this.reports += 1;
  }

  @JobHandler('reports')
  work(_job: Job): void {
    this.ran += 1;
  }
}

const LOOPS = ['nestmq default poll', 'nestmq default prune', 'nestmq default rescue'];
const database = useDatabase();

/** Intervals that were started with the application's own period. */
let started: () => number;
beforeEach(() => {
  const setInterval = jest.spyOn(globalThis, 'setInterval');
  started = () => setInterval.mock.calls.filter(([, ms]) => ms === EVERY_MS).length;
});
afterEach(() => void jest.restoreAllMocks());

const start = async (schedules: number, queue = true): Promise<Booted> => {
  const dataSource = await connect(database.url);
  const schedule = Array.from({ length: schedules }, () => ScheduleModule.forRoot());
  const imports = queue ? [...schedule, QueueModule.forRoot({ dataSource })] : schedule;
  return boot({ imports, providers: [Reporter] });
};

const registry = ({ app }: Booted): SchedulerRegistry => app.get(SchedulerRegistry, { strict: false });

describe('beside @nestjs/schedule', () => {
  it('an application’s own @Interval is started once, and fires', async () => {
    const booted = await start(1);
    const reporter = booted.app.get(Reporter);
    await until(() => reporter.reports >= 3, { what: 'the interval has fired three times' });
    expect(started()).toBe(1);
    expect(registry(booted).getIntervals()).toEqual(['report']);
    await booted.close();
  });

  it('an interval that is started twice would be seen: so it is when two modules import ScheduleModule.forRoot()', async () => {
    const failed = start(2, false).then(
      (booted) => booted.close(),
      (error: Error) => expect(error.message).toContain('report'),
    );
    await failed;
    expect(started()).toBe(2);
  });

  it('the loops are in the SchedulerRegistry by name, and gone after the close', async () => {
    const booted = await start(1);
    const timeouts = registry(booted);
    await until(() => LOOPS.every((name) => timeouts.doesExist('timeout', name)), { what: 'all loops are shown' });
    expect(timeouts.getTimeouts().toSorted()).toEqual(LOOPS);
    await booted.close();
    expect(timeouts.getTimeouts()).toEqual([]);
  });

  it('the loops of a named instance carry its name', async () => {
    const dataSource = await connect(database.url);
    @Injectable()
    class Billing {
      @JobHandler('billing', { instance: 'billing' })
      charge(_job: Job): void {}
    }
    const booted = await boot({
      imports: [ScheduleModule.forRoot(), QueueModule.forRoot({ dataSource, name: 'billing' })],
      providers: [Billing],
    });
    const timeouts = registry(booted);
    await until(() => timeouts.getTimeouts().length === 3, { what: 'all loops are shown' });
    expect(timeouts.getTimeouts().every((name) => name.startsWith('nestmq billing '))).toBe(true);
    await booted.close();
  });

  it('jobs run', async () => {
    const booted = await start(1);
    await booted.app.get(JobSpawner).spawn(Reporter, 'work', 1);
    await until(() => booted.app.get(Reporter).ran === 1, { what: 'the job has run' });
    await booted.close();
  });
});

describe('without @nestjs/schedule’s module', () => {
  it('all works, and no interval of the application is started', async () => {
    const booted = await start(0);
    await booted.app.get(JobSpawner).spawn(Reporter, 'work', 1);
    await until(() => booted.app.get(Reporter).ran === 1, { what: 'the job has run' });
    expect(started()).toBe(0);
    expect(() => registry(booted)).toThrow('SchedulerRegistry');
    await booted.close();
  });
});
