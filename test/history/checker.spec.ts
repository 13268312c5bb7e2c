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

describe('the checker rejects as a lost job', () => {
  it('one that never ends', () => {
    expect(story().spawn(['a', 'b']).run('a').broken()).toEqual(['lost job']);
  });

  it('one whose commit was confirmed and that is not there', () => {
    const told = story()
      .spawn(['a'])
      .forget(({ type }) => type === 'spawned');
    expect(told.broken({ complete: false })).toEqual(['lost job']);
  });
});

describe('the checker rejects as a rolled-back spawn', () => {
  it('a job that ran, and that nobody has committed', () => {
    const told = story();
    told.begin().spawn(['a']).rollback();
    expect(told.run('a').broken()).toContain('rolled-back spawn');
  });

  it('a job that is there after the rollback', () => {
    const told = story()
      .spawn(['a'])
      .run('a')
      .forget(({ type }) => type === 'transaction');
    told.log({ type: 'transaction', transaction: 't', outcome: 'rolled back', ids: ['a'] });
    expect(told.broken()).toEqual(['rolled-back spawn']);
  });
});

describe('the checker rejects as a double completion', () => {
  it('two ends of a job', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a').end('a');
    expect(told.settled('a', 'completed', 900).settle('a').broken()).toContain('double completion');
  });

  it('two effects of a job', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a').effect('a').effect('a').end('a').unlease('a');
    expect(told.broken()).toContain('double completion');
  });

  it('a run that begins after the job has ended', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).lease('r2', ['a']);
    told.start('a', { runner: 'r1', lease: 1 }).end('a', 'returned', { runner: 'r1', lease: 1 });
    told.settled('a', 'completed', 900);
    // Its stamp was raised, so that the end of the first run does not speak of it.
    told.start('a', { runner: 'r2', lease: 2, run: 1 });
    expect(told.broken()).toContain('double completion');
  });
});

describe('the checker rejects as an overlap', () => {
  it('two runs of a job at once', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a', { attempt: 1 });
    told.lease('r2', ['a']).start('a', { attempt: 2 }).end('a').settle('a');
    expect(told.broken()).toContain('overlap');
  });

  it('two jobs of a lane at once', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a']).start('a', { seq: 1 });
    told.lease('r2', ['b']).start('b', { seq: 2 }).end('a').settle('a').end('b').settle('b');
    expect(told.broken({ strict: false })).toContain('overlap');
  });

  it('a run that begins while an earlier one goes on, behind one that has ended', () => {
    const told = story().spawn(['a', 'b', 'c'], inLane).lease('r1', ['a']).start('a', { seq: 1 });
    told.lease('r2', ['b']).start('b', { seq: 2 }).end('b').settle('b').run('c', { seq: 3 }).end('a').settle('a');
    expect(told.broken({ strict: false })).toContain('overlap');
  });

  it('a run after its runner was declared dead and before its jobs were put back', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a', { attempt: 1 }).gone('r1');
    told.lease('r2', ['a']).start('a', { attempt: 2 }).end('a').settle('a');
    expect(told.broken()).toContain('overlap');
  });
});

describe('the checker rejects as leased twice', () => {
  it('a job that two leases name', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).lease('r2', ['a']).start('a').end('a').settle('a');
    expect(told.broken()).toEqual(['leased twice']);
  });

  it('not a job that was put back while its first lease was still there for another one', () => {
    const told = story().spawn(['a', 'b']).lease('r1', ['a', 'b']).start('a').end('a', 'threw');
    const first = told.key('b');
    told.log({ type: 'requeued', id: 'a', run: 0, xid: 900 }).log({
      type: 'leased',
      runner: 'r2',
      lease: 99,
      jobs: [{ id: 'a', run: 1 }],
    });
    told.start('b', first).end('b').settle('b').start('a', { runner: 'r2', lease: 99, run: 1, attempt: 2 });
    told.end('a', 'returned', { runner: 'r2', lease: 99, run: 1 }).settled('a', 'completed', 901, { run: 1 });
    expect(told.broken()).toEqual([]);
  });
});

describe('the checker rejects as a run without a lease', () => {
  it('one that no lease names', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a').end('a').settle('a');
    expect(told.forget(({ type }) => type === 'leased').broken()).toContain('run without a lease');
  });

  it('one that begins when the lease has ended, though nobody declared its runner dead', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).unlease('a').start('a').end('a');
    told.lease('r2', ['a']).start('a', { attempt: 2 }).end('a').settle('a');
    expect(told.broken()).toEqual(['run without a lease']);
  });
});

describe('the checker rejects by the fence', () => {
  it('the effect of a run whose job another run has', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a');
    const first = told.key('a');
    told.gone('r1').requeue('a').lease('r2', ['a']).start('a');
    told.log({ type: 'effect', ...first, xid: 900 }).settled('a', 'completed', 900);
    expect(told.end('a').unlease('a').broken()).toEqual(['fence']);
  });

  it('an effect whose completion did not commit with it', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a');
    told
      .log({ type: 'effect', ...told.key('a'), xid: 900 })
      .end('a')
      .settle('a');
    expect(told.broken()).toEqual(['fence']);
  });

  it('the effect of a run whose lease had gone, though the job’s stamp was still the same', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a').gone('r1').unlease('a').effect('a').end('a');
    expect(told.broken()).toEqual(['fence']);
  });

  it('a completion by a run that had lost the job, while another was running it', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a');
    const first = told.key('a');
    told.gone('r1').requeue('a').lease('r2', ['a']).start('a').end('a', 'returned', first).settle('a');
    expect(told.broken()).toEqual(['fence']);
  });

  it('a completion of a run that threw', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a').end('a', 'threw').settle('a');
    expect(told.broken()).toEqual(['fence']);
  });

  it('a retry written for a run that was still going on', () => {
    const told = story().spawn(['a']).lease('r1', ['a']).start('a').requeue('a').run('a', { runner: 'r2' });
    expect(told.broken()).toEqual(['fence']);
  });
});

describe('the checker rejects by the attempts', () => {
  it('a start above the limit', () => {
    const told = story().spawn(['a'], { maxAttempts: 2 }).fail('a').fail('a').run('a');
    expect(told.broken()).toEqual(['attempts']);
  });

  it('a second run with the number of one that threw', () => {
    const told = story().spawn(['a']).fail('a').lease('r1', ['a']).start('a', { attempt: 1 }).end('a').settle('a');
    expect(told.broken({ strict: false })).toEqual(['attempts']);
  });

  const lostTwice = (maxAttempts: number, times: number): Story => {
    const told = story().spawn(['a'], { maxAttempts });
    for (let time = 1; time <= times; time++)
      told.lease(`r${time}`, ['a']).start('a', { attempt: 1 }).gone(`r${time}`).requeue('a');
    return told.lease('r9', ['a']).start('a', { attempt: 1 }).end('a').settle('a');
  };

  it('a suspect whose start was not recorded', () => {
    expect(lostTwice(5, 2).broken({ strict: false })).toEqual(['attempts']);
  });

  it('a last attempt that was not recorded', () => {
    expect(lostTwice(1, 1).broken({ strict: false })).toEqual(['attempts']);
  });

  it('a start that was not recorded where nothing is taken ahead', () => {
    expect(lostTwice(5, 1).broken({ strict: true })).toEqual(['attempts']);
    expect(lostTwice(5, 1).broken({ strict: false })).toEqual([]);
  });
});

describe('the checker rejects by seq', () => {
  it.each([
    ['a gap', [1, 3]],
    ['a number used twice', [1, 1]],
    ['a count that does not begin at 1', [2, 3]],
  ])('%s', (_, [first, second]) => {
    const told = story().spawn(['a', 'b'], inLane).run('a', { seq: first! }).run('b', { seq: second! });
    expect(told.broken()).toContain('seq');
  });

  it('another number after a retry', () => {
    const told = story().spawn(['a', 'b'], inLane).fail('a', { seq: 1 }).run('a', { seq: 2 }).run('b', { seq: 3 });
    expect(told.broken()).toContain('seq');
  });

  it('an ordered run without a number, and an unordered one with one', () => {
    expect(story().spawn(['a'], inLane).run('a').broken()).toEqual(['seq']);
    expect(story().spawn(['a']).run('a', { seq: 1 }).broken()).toEqual(['seq']);
  });
});

describe('the checker rejects by the order of starts', () => {
  it('a job that passes the head while that waits for its retry', () => {
    const told = story().spawn(['a', 'b'], inLane).fail('a', { seq: 1 }).run('b', { seq: 2 }).run('a', { seq: 1 });
    expect(told.broken()).toContain('start order');
  });

  it('a start before the end of the one before is durable, where lane runs are of one job', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a', 'b']);
    told.start('a', { seq: 1 }).end('a').start('b', { seq: 2 }).settled('a', 'completed', 900);
    told.end('b').settled('b', 'completed', 901).unlease('a', 901);
    expect(told.broken({ strict: true })).toEqual(['start order']);
    expect(told.broken({ strict: false })).toEqual([]);
  });

  it('a start before the end of the one before by another runner', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a']).start('a', { seq: 1 }).end('a');
    told.lease('r2', ['b']).start('b', { seq: 2 }).settle('a').end('b').settle('b');
    expect(told.broken({ strict: false })).toEqual(['start order']);
  });

  it('going on with a run after one of its jobs threw', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a', 'b']).start('a', { seq: 1 }).end('a', 'threw');
    told.start('b', { seq: 2 }).end('b').log({ type: 'requeued', id: 'a', run: 0, xid: 900 });
    expect(told.broken({ strict: false, complete: false })).toContain('start order');
  });

  it('a start while the transaction that ends the one before is still open', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a']).start('a', { seq: 1 });
    told
      .log({ type: 'effect', ...told.key('a'), xid: 900 })
      .settled('a', 'completed', 900)
      .end('a');
    told.lease('r2', ['b']).log({
      ...{ type: 'start', ...told.key('b'), attempt: 1, seq: 2, pid: 1 },
      snapshot: '900:901:900',
    });
    expect(told.end('b').settle('b').unlease('a').broken({ strict: false })).toContain('start order');
  });
});

describe('the checker rejects by the order of ends', () => {
  it('an end that is written before that of the job before', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a', 'b']);
    told.start('a', { seq: 1 }).end('a').start('b', { seq: 2 }).end('b');
    told.settled('b', 'completed', 900).settled('a', 'completed', 901).unlease('a', 901);
    expect(told.broken({ strict: false })).toContain('end order');
  });
});

describe('the checker rejects by the order of spawns', () => {
  it('a job before one of its own transaction that was spawned by an earlier call, or stood before it in the call', () => {
    const byCall = story();
    byCall.begin().spawn(['a'], inLane).spawn(['b'], inLane).commit();
    expect(byCall.run('b', { seq: 1 }).run('a', { seq: 2 }).broken()).toEqual(['spawn order']);
    const byIndex = story().spawn(['a', 'b'], inLane);
    expect(byIndex.run('b', { seq: 1 }).run('a', { seq: 2 }).broken()).toEqual(['spawn order']);
  });

  it('a job before one that had been committed before its call of spawn began', () => {
    const told = story().spawn(['a'], inLane).spawn(['b'], inLane);
    expect(told.run('b', { seq: 1 }).run('a', { seq: 2 }).broken()).toEqual(['spawn order']);
  });

  it('a job far before the one that it has passed', () => {
    const told = story().spawn(['a'], inLane).spawn(['b'], inLane);
    const late = told.begin().spawn(['c'], inLane);
    late.commit();
    told.run('b', { seq: 1 }).run('c', { seq: 2 }).run('a', { seq: 3 });
    expect(told.broken()).toEqual(['spawn order']);
  });

  it('a job that started, while one spawned before it never did', () => {
    const told = story().spawn(['a'], inLane).spawn(['b'], inLane).run('b', { seq: 1 });
    expect(told.broken({ complete: false })).toEqual(['spawn order']);
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
});
