import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { cancelMessages, notifyChannelOf, parseWakeUp, probeMessage, SURVEY_MESSAGE } from './wake-up.js';

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
    expect(cancelMessages(['7', '8'], null).map(parseWakeUp)).toEqual([
      { kind: 'cancel', ids: ['7', '8'], reason: null },
    ]);
    expect(cancelMessages(['7'], 'größe "1"').map(parseWakeUp)).toEqual([
      { kind: 'cancel', ids: ['7'], reason: 'größe "1"' },
    ]);
  });

  it('divides many jobs into messages that a notification takes, whatever the reason', () => {
    const ids = Array.from({ length: 120 }, (_, index) => String(10n ** 18n - 1n - BigInt(index)));
    const messages = cancelMessages(ids, '\u0001'.repeat(1_024));
    expect(messages.map(parseWakeUp).flatMap((wakeUp) => (wakeUp?.kind === 'cancel' ? wakeUp.ids : []))).toEqual(ids);
    expect(Math.max(...messages.map((message) => Buffer.byteLength(message)))).toBeLessThan(8_000);
    expect(cancelMessages([], null)).toEqual([]);
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
    '["cancel"]',
    '["cancel", 7, "1"]',
    '["cancel", null, 1]',
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
