import { describe, expect, it } from '@jest/globals';
import { Story } from './story.js';

const story = (): Story => new Story();
const inLane = { lane: 'l' } as const;

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
