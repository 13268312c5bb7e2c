import { describe, expect, it } from '@jest/globals';
import { errorText, MAX_ERROR_BYTES } from './error-text.js';

describe('errorText', () => {
  it('is the stack, which begins with name and message', () => {
    const text = errorText(new TypeError('no such user'));
    expect(text).toMatch(/^TypeError: no such user\n\s+at /);
  });

  it('tells the causes', () => {
    const error = new Error('outer', { cause: new Error('middle', { cause: 'root' }) });
    expect(errorText(error)).toMatch(/^Error: outer[^]*Caused by: Error: middle[^]*Caused by: root$/);
  });

  it('ends for an error that is its own cause', () => {
    const error = new Error('circle');
    error.cause = error;
    expect(errorText(error).match(/Caused by/g)).toHaveLength(4);
  });

  it.each<[unknown, string]>([
    ['text', 'text'],
    ['', '""'],
    [undefined, 'undefined'],
    [null, 'null'],
    [{ code: 7 }, '{"code":7}'],
    [Object.create(null), '{}'],
  ])('tells something of whatever was thrown: %p', (thrown, text) => expect(errorText(thrown)).toBe(text));

  it('can be stored: without NUL and well-formed', () => {
    const text = errorText(`a\0b${String.fromCharCode(0xd800)}c`);
    expect(text).toBe('ab\uFFFDc');
  });

  it.each(['x', 'ü', '€', '📮'])('is cut at 8 KiB of UTF-8 and never within a character: %s', (character) => {
    const text = errorText(`a${character.repeat(MAX_ERROR_BYTES)}`);
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(MAX_ERROR_BYTES);
    expect(Buffer.byteLength(text)).toBeGreaterThan(MAX_ERROR_BYTES - 16);
    expect(text.replaceAll(character, '')).toBe('a…');
  });

  it('keeps what just fits', () => {
    expect(errorText('x'.repeat(MAX_ERROR_BYTES))).toHaveLength(MAX_ERROR_BYTES);
  });

  it('survives an error whose own properties throw', () => {
    const hostile = new Error('hidden');
    Object.defineProperty(hostile, 'stack', {
      get: () => {
        throw new Error('no stack for you');
      },
    });
    expect(typeof errorText(hostile)).toBe('string');
  });
});
