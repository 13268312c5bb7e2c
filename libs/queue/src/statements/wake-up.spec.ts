import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { notifyChannelOf, parseWakeUp, probeMessage, SURVEY_MESSAGE } from './wake-up.js';

describe('parseWakeUp', () => {
  it('reads the place and priority of jobs, their channel, whether they carry keys, and the first one’s name', () => {
    expect(parseWakeUp('[1764000000000001, "9007199254740993", -3, "größe \\"1\\"", 1, "Mailer.welcome"]')).toEqual({
      kind: 'jobs',
      position: { micros: 1_764_000_000_000_001, id: '9007199254740993' },
      priority: -3,
      channel: 'größe "1"',
      stream: 'jobs',
      keyed: true,
      name: 'Mailer.welcome',
    });
  });

  it('reads what it writes itself', () => {
    expect(parseWakeUp(SURVEY_MESSAGE)).toEqual({ kind: 'survey' });
    expect(parseWakeUp(probeMessage('abc'))).toEqual({ kind: 'probe', token: 'abc' });
  });

  it.each([
    '',
    '{}',
    'null',
    '5',
    '[]',
    '["other"]',
    '[5]',
    '["1", "2", 0, "mail", ""]',
    '[1, "2", 0',
    'ping',
    '[null,1]',
    '[5, "x", 0, "mail", 0, "a"]',
    '[5, "1.5", 0, "mail", 0, "a"]',
    '[5, "1", "y", "mail", 0, "a"]',
    '[0.5, "1", 0, "mail", 0, "a"]',
    '[5, "1", 0, "mail", 4, "a"]',
    '[5, "1", 0, "mail", true, "a"]',
  ])('takes no notice of what somebody else wrote: %p', (message) => expect(parseWakeUp(message)).toBeUndefined());

  it('never throws', () => {
    const read = (): void =>
      fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (message) => void parseWakeUp(message)));
    expect(read).not.toThrow();
  });
});

describe('notifyChannelOf', () => {
  it('fits Postgres’s 63 bytes for the longest schema name', () => {
    expect(Buffer.byteLength(notifyChannelOf('s'.repeat(40)))).toBeLessThanOrEqual(63);
  });
});
