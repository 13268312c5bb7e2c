import { describe, expect, it } from '@jest/globals';
import * as nestmq from '../index.js';
import * as errors from './errors.js';
import { describe as describeValue, InvalidOptionsError, messageOf, QueueError, UnknownJobError } from './errors.js';

type ErrorClass = new (...facts: never[]) => QueueError;

const classes = Object.entries(errors).filter(
  ([, value]) => typeof value === 'function' && value.prototype instanceof QueueError,
) as unknown as [string, ErrorClass][];

const make = (Class: ErrorClass): QueueError =>
  // Facts that suit every constructor: strings, lists and options are all read as objects with a message.
  new (Class as unknown as new (...facts: unknown[]) => QueueError)(...factsFor(Class));

function factsFor(Class: ErrorClass): unknown[] {
  switch (Class.name) {
    case 'UnknownJobError':
    case 'PayloadInvalidError':
      return ['Mailer.welcome', ['something']];
    case 'SpawnItemError':
      return [3, new Error('wrong')];
    case 'ReservationError':
      return ['5', 'expired'];
    case 'TransactionAbortedError':
      return ['spawn'];
    case 'DatabaseUnavailableError':
    case 'TransactionConflictError':
      return [{ cause: new Error('gone') }];
    default:
      return ['a', 'b', 'c'];
  }
}

describe('errors', () => {
  it('have a code of their own each, in snake_case', () => {
    const codes = classes.map(([, Class]) => make(Class).code);
    expect(new Set(codes).size).toBe(codes.length);
    for (const code of codes) expect(code).toMatch(/^[a-z]+(_[a-z]+)*$/);
  });

  it.each(classes)('%s carries its name, is a QueueError and an Error, and says something', (name, Class) => {
    const error = make(Class);
    expect(error).toBeInstanceOf(QueueError);
    expect(error).toBeInstanceOf(Error);
    expect(error.name).toBe(name);
    expect(error.message.length).toBeGreaterThan(15);
    expect(error.message).not.toContain('undefined');
  });

  it.each(classes.filter(([name]) => name !== 'JobNotFoundError'))('%s is exported by the package', (name, Class) => {
    expect((nestmq as Record<string, unknown>)[name]).toBe(Class);
  });

  it('lists what is registered when a name is unknown, twenty names at most', () => {
    const names = Array.from({ length: 25 }, (_, i) => `Handler.n${i}`);
    const { message } = new UnknownJobError('Mailer.welcom', names);
    expect(message).toContain('No handler for job "Mailer.welcom"');
    expect(message).toContain('"Handler.n19" and 5 more');
    expect(new UnknownJobError('x', []).message).toContain('Registered: none');
  });

  it('say the option, the value got and the cure', () => {
    const error = new InvalidOptionsError('concurrency.max', 0, 'Give a whole number from 1 to 10000.');
    expect(error.message).toBe('Option "concurrency.max" is 0. Give a whole number from 1 to 10000.');
    expect(error).toMatchObject({ option: 'concurrency.max', value: 0, code: 'invalid_options' });
  });
});

describe('messageOf', () => {
  it.each<[unknown, string]>([
    [new Error('boom'), 'boom'],
    [new TypeError(''), 'TypeError'],
    ['text', 'text'],
    ['', '""'],
    [undefined, 'undefined'],
    [null, 'null'],
    [{ code: 1 }, '{"code":1}'],
    [new AggregateError([new Error('one'), new Error('two')]), 'one; two'],
    [Symbol('s'), 'symbol'],
  ])('is never empty: %p → %s', (thrown, text) => {
    expect(messageOf(thrown)).toBe(text);
  });
});

describe('a value in a message', () => {
  const circular: { self?: unknown } = {};
  circular.self = circular;

  it.each<[unknown, string]>([
    [5n, '5n'],
    [Number.NaN, 'NaN'],
    [new Date(Number.NaN), 'an invalid Date'],
    [new Date(0), '1970-01-01T00:00:00.000Z'],
    [(): void => undefined, 'function (anonymous)'],
    [circular, '[object Object]'],
  ])('shows %p as %s', (value, text) => {
    expect(describeValue(value)).toBe(text);
  });

  it('cuts what is long', () => {
    expect(describeValue('x'.repeat(5_000)).length).toBeLessThanOrEqual(120);
  });
});
