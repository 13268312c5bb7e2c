import { describe, expect, it } from '@jest/globals';
import { Story } from './story.js';

const story = (): Story => new Story();
const inLane = { lane: 'l' } as const;

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

  it('going on with a run after one of its jobs died, but where they come in batches', () => {
    const told = story().spawn(['a', 'b'], inLane).lease('r1', ['a', 'b']).start('a', { seq: 1 }).end('a', 'threw');
    told.start('b', { seq: 2 }).end('b').settled('a', 'dead', 900).settled('b', 'completed', 900).unlease('a', 900);
    expect(told.broken({ strict: false })).toEqual(['start order']);
    expect(told.broken({ strict: false, batches: true })).toEqual([]);
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
