import { describe, expect, it } from '@jest/globals';
import { InvalidOptionsError } from './errors.js';
import { checkKey, checkName, checkPriority, checkRetries } from './names.js';

const loneHigh = String.fromCharCode(0xd83d);

describe('checkName', () => {
  it.each([
    'a',
    'Mailer.welcome',
    'bestellt/größe',
    '📮',
    ' ',
    '"; DROP TABLE job; --',
    'ü'.repeat(127),
    'x'.repeat(255),
  ])('takes %p', (name) => expect(checkName(name, 'channel')).toBe(name));

  it.each<[unknown]>([
    [''],
    ['x'.repeat(256)],
    ['ü'.repeat(128)],
    ['a\0b'],
    [loneHigh],
    [5],
    [null],
    [undefined],
    [{}],
  ])('refuses %p', (name) => expect(() => checkName(name, 'channel')).toThrow(InvalidOptionsError));

  it('measures in UTF-8, and says how much it got', () => {
    expect(() => checkName('ü'.repeat(128), 'channel')).toThrow('Give 1 to 255 bytes of UTF-8, this has 256.');
  });
});

describe('checkKey', () => {
  it.each(['', 'customer 4711', 'Ω'.repeat(512), 'k'.repeat(1_024)])('takes %p', (key) =>
    expect(checkKey(key, 'key')).toBe(key),
  );

  it.each<[unknown]>([['k'.repeat(1_025)], ['Ω'.repeat(513)], ['a\0'], [`x${loneHigh}y`], [7]])('refuses %p', (key) =>
    expect(() => checkKey(key, 'key')).toThrow(InvalidOptionsError),
  );
});

describe('checkPriority', () => {
  it.each([-32_768, 0, 32_767])('takes %d', (priority) => expect(checkPriority(priority, 'priority')).toBe(priority));

  it.each<[unknown]>([[-32_769], [32_768], [0.5], [Number.NaN], ['1'], [null], [1n]])('refuses %p', (priority) =>
    expect(() => checkPriority(priority, 'priority')).toThrow('Give a whole number from -32768 to 32767.'),
  );
});

describe('checkRetries', () => {
  it('stores endless retries as null', () => expect(checkRetries(Infinity, 'retries')).toBeNull());

  it.each([0, 4, 1_000_000])('takes %d', (retries) => expect(checkRetries(retries, 'retries')).toBe(retries));

  it.each<[unknown]>([[-1], [1_000_001], [1.5], [Number.NaN], [-Infinity], ['4'], [null]])('refuses %p', (retries) =>
    expect(() => checkRetries(retries, 'retries')).toThrow(InvalidOptionsError),
  );
});
