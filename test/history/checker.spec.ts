import { describe, expect, it } from '@jest/globals';
import { check, excerpt } from './check.js';
import { parseLog, sees } from './event.js';
import { historyOf } from './history.js';
import { Story } from './story.js';

const story = (): Story => new Story();
const inLane = { lane: 'l' } as const;

describe('a snapshot', () => {
  it.each([
    [9, true],
    [10, false],
    [11, true],
    [12, false],
    [13, true],
    [14, false],
  ])('10:14:10,12 sees transaction %d: %s', (xid, expected) => {
    expect(sees('10:14:10,12', xid)).toBe(expected);
  });
});

describe('the checker accepts', () => {
  it('jobs that run once, return and are completed', () => {
    expect(story().spawn(['a', 'b']).run('a').run('b').broken()).toEqual([]);
  });

  it('a job completed in its handler’s transaction, whether the handler returns afterwards or throws', () => {
    const told = story().spawn(['a', 'b']).lease('r1', ['a', 'b']);
    told.start('a').effect('a').end('a').start('b').effect('b').end('b', 'threw').unlease('a');
    expect(told.broken()).toEqual([]);
  });

  it('retries up to the last attempt, and the dead job', () => {
    const told = story().spawn(['a']).fail('a').fail('a').lease('r2', ['a']).start('a').end('a', 'threw');
    expect(told.settle('a', 'dead').broken()).toEqual([]);
  });

  it('a spawn that rolled back, and one whose end nobody heard of', () => {
    const told = story();
    told.begin().spawn(['a']).rollback();
    told.spawn(['b']).forget(({ type }) => type === 'transaction');
    expect(told.run('b').broken()).toEqual([]);
  });

  it('a job that runs again after its process was killed, before the end of its handler or after it', () => {
    const told = story().spawn(['a', 'b']).lease('r1', ['a', 'b']).start('a').start('b').end('b').gone('r1');
    told.requeue('a').requeue('b').run('a', { runner: 'r2' }).run('b', { runner: 'r2' });
    expect(told.broken()).toEqual([]);
  });

  it('a run that goes on when the end of its lease has passed, and gets nothing written', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a');
    const first = told.key('a');
    told.log({ type: 'requeued', id: 'a', run: 0, xid: 900, lapsed: true });
    told.log({ type: 'leased', runner: 'r2', lease: 99, jobs: [{ id: 'a', run: 1 }] });
    const second = { runner: 'r2', lease: 99, run: 1 };
    told.start('a', second).end('a', 'returned', first).unlease('a');
    told.end('a', 'returned', second).settled('a', 'completed', 901, second);
    expect(told.broken()).toEqual([]);
  });

  it('a paused process that starts, ends and throws beside the new run, and gets nothing written', () => {
    const told = story().spawn(['a', 'b']).lease('r1', ['a', 'b']).start('a');
    const [a, b] = [told.key('a'), told.key('b')];
    told.gone('r1').requeue('a').requeue('b').lease('r2', ['a', 'b']).start('a').start('b');
    told.end('a', 'returned', a).log({ type: 'start', ...b, attempt: 1, seq: null, pid: 1, snapshot: '1:1:' });
    told.log({ type: 'end', ...b, how: 'threw' });
    told.end('b').end('a').settled('a', 'completed', 900).settled('b', 'completed', 900).unlease('a');
    expect(told.broken()).toEqual([]);
  });

  it('one start that nothing has recorded, of a job that was taken ahead', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a').gone('r1').requeue('a');
    told.lease('r2', ['a']).start('a', { attempt: 1 }).end('a').settle('a');
    expect(told.broken({ strict: false })).toEqual([]);
  });

  it('starts that are given back when their process ends in a shutdown, whether the handlers end or not', () => {
    const told = story()
      .spawn(['a', 'b'], { maxAttempts: 1 })
      .lease('r1', ['a'])
      .lease('r1', ['b'])
      .start('a')
      .start('b');
    told.log({ type: 'stopping', runner: 'r1' }).end('b', 'threw').requeue('b').gone('r1').requeue('a');
    told.lease('r2', ['a']).start('a', { attempt: 1 }).end('a').settle('a');
    told.lease('r2', ['b']).start('b', { attempt: 1 }).end('b').settle('b');
    expect(told.broken()).toEqual([]);
  });

  it('an attempt that was counted and never came to start', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).gone('r1').requeue('a');
    expect(told.lease('r2', ['a']).start('a', { attempt: 2 }).end('a').settle('a').broken()).toEqual([]);
  });

  it('a history cut off in the middle, when it is said to be one', () => {
    const told = story().spawn(['a', 'b']).run('a').lease('r1', ['b']).start('b');
    expect(told.broken({ complete: false })).toEqual([]);
    expect(told.broken()).toEqual(['lost job']);
  });
});

describe('the checker accepts in an ordered lane', () => {
  it('jobs one after another, by several runners, with retries that hold the lane', () => {
    const told = story().spawn(['a', 'b', 'c'], inLane).run('a', { seq: 1 }).fail('b', { seq: 2 });
    told.run('b', { seq: 2, runner: 'r2' }).run('c', { seq: 3 });
    expect(told.broken()).toEqual([]);
  });

  it('the order in which the lane saw transactions that overlap', () => {
    const told = story();
    const first = told.begin().spawn(['a'], inLane);
    const second = told.begin().spawn(['b'], inLane);
    second.commit();
    told.run('b', { seq: 1 });
    first.commit();
    expect(told.run('a', { seq: 2 }).broken()).toEqual([]);
  });

  it('a run of several jobs whose ends are written together', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a', 'b']);
    told.start('a', { seq: 1 }).end('a').start('b', { seq: 2 }).end('b');
    told.settled('a', 'completed', 900).settled('b', 'completed', 900).unlease('a', 900);
    expect(told.broken({ strict: false })).toEqual([]);
  });

  it('a stretch that is repeated, in order, after its process was killed', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a', 'b']);
    told.start('a', { seq: 1 }).end('a').start('b', { seq: 2 }).gone('r1').requeue('a').requeue('b');
    told.lease('r2', ['a', 'b']).start('a', { seq: 1 }).end('a').start('b', { seq: 2 }).end('b');
    told.settled('a', 'completed', 900).settled('b', 'completed', 900).unlease('a', 900);
    expect(told.broken({ strict: false })).toEqual([]);
  });

  it('a dead head that lets the lane go on, with the number that it had', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a']).start('a', { seq: 1 }).end('a', 'threw');
    expect(told.settle('a', 'dead').run('b', { seq: 2 }).broken()).toEqual([]);
  });

  it('unordered jobs beside it that overlap with everything', () => {
    const told = story().spawn(['a'], inLane).spawn(['b', 'c']).lease('r1', ['a', 'b']).lease('r2', ['c']);
    told.start('b').start('a', { seq: 1 }).start('c').end('c').settle('c').end('b').end('a');
    told.settled('b', 'completed', 900).settled('a', 'completed', 900).unlease('a', 900);
    expect(told.broken()).toEqual([]);
  });
});

describe('a log', () => {
  const told = story().spawn(['a', 'b', 'c']).run('a').run('c').log({ type: 'fault', kind: 'kill', pid: 7 }).told();

  it('is one event a line', () => {
    const text = told.map((event) => `${JSON.stringify(event)}\n`).join('');
    expect(parseLog(text)).toEqual(told);
    expect(historyOf(parseLog(text)).jobs.size).toBe(3);
  });

  it('is cut down to what a violation is about', () => {
    const [violation] = check(historyOf(told), { strict: true, complete: true });
    const types = excerpt(told, violation!).map(({ type }) => type);
    expect(violation!.ids).toEqual(['b']);
    expect(types).toEqual(['call', 'spawned', 'transaction']);
  });

  it('a run under a lease that has been extended by its job', () => {
    const told = story().spawn(['a', 'b']).lease('r1', ['a']);
    const { runner, lease } = told.key('a');
    const extended = { runner, lease, run: 0 };
    told.log({ type: 'leased', runner, lease, jobs: [{ id: 'b', run: 0 }] });
    told.start('a').end('a').settled('a', 'completed', 900);
    told.start('b', extended).end('b', 'returned', extended).settled('b', 'completed', 901, extended);
    expect(told.broken()).toEqual([]);
  });
});
