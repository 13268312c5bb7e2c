import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';

const FOLDER = new URL('.', import.meta.url);

/** What is left of the 63 bytes that the server keeps of a prepared statement's name, behind the longest schema and a dot. */
const KEPT_BYTES = 63 - 41;

/** What a name may have in it where a statement has several forms. */
const FORMS: Readonly<Record<string, readonly string[]>> = {
  '${items.name}': ['1', 'n'],
  '${scope}': ['all', 'ids', 'channel', 'lane'],
};

const names = readdirSync(FOLDER)
  .filter((file) => file.endsWith('.ts') && !file.endsWith('.spec.ts'))
  .flatMap((file) => [...readFileSync(new URL(file, FOLDER), 'utf8').matchAll(/^ +name: .(.+_v\d+).,$/gm)])
  .flatMap(([, name]) => {
    const form = Object.keys(FORMS).find((known) => name!.includes(known));
    return form === undefined ? name! : FORMS[form]!.map((text) => name!.replace(form, text));
  });

describe('the names of the statements', () => {
  it('are told apart by the server in any schema', () => {
    expect(names.length).toBeGreaterThan(60);
    expect(names.filter((name) => name.includes('$'))).toEqual([]);
    expect(new Set(names.map((name) => name.slice(0, KEPT_BYTES))).size).toBe(names.length);
  });
});
