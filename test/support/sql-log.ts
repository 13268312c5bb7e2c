import { afterEach, jest } from '@jest/globals';
import pg from 'pg';

afterEach(() => void jest.restoreAllMocks());

/** Text of every statement that this process sends from now on, over whatever connection; until the end of the test. */
export function recordSql(): string[] {
  const statements: string[] = [];
  const send: (...given: unknown[]) => unknown = Reflect.get(pg.Client.prototype, 'query');
  jest.spyOn(pg.Client.prototype, 'query').mockImplementation(function (this: pg.Client, ...given: unknown[]) {
    const [first] = given;
    statements.push(typeof first === 'string' ? first : String((first as { text?: string } | undefined)?.text));
    return send.apply(this, given) as never;
  } as never);
  return statements;
}
