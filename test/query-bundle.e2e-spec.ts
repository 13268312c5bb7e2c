import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { BundleError, sendTogether } from '../libs/queue/src/postgres/query-bundle.js';
import { useDatabase } from './support/database.js';

const database = useDatabase();
let client: pg.Client;

beforeEach(async () => {
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await client.query('CREATE TEMP TABLE note (n integer, body text, list text[])');
});

afterEach(() => client.end());

const insert = (name?: string) => ({ ...(name && { name }), text: 'INSERT INTO note VALUES ($1, $2, $3)' });

describe('a bundle of statements', () => {
  it.each([
    ['a quote and a backslash', `it's "\\" and \\n`, ['"', '\\', '', 'NULL', '{a,b}']],
    ['letters of several bytes', 'Grüße, 日本 🚀', ['ß', '🚀', ' ']],
    ['nothing', null, [null, 'a', null]],
    ['an empty list', '', []],
  ])('brings %s to the server as it was', async (_, body, list) => {
    const read = { text: 'SELECT n, body, list FROM note' };
    const { rows } = await sendTogether<pg.QueryResult>(client, [{ ...insert(), values: [7, body, list] }, read], {
      place: 1,
    });
    expect(rows).toEqual([{ n: 7, body, list }]);
  });

  it('answers any of its statements, or the command that the last one was', async () => {
    const all = [{ text: 'BEGIN' }, { text: 'SELECT 1 AS one' }, { text: 'COMMIT' }];
    expect(await sendTogether(client, all, { place: 1 })).toMatchObject({ rows: [{ one: 1 }] });
    expect(await sendTogether(client, all, { place: null })).toEqual({ command: 'COMMIT' });
  });

  it('prepares a name once, and knows it when pg has', async () => {
    const named = insert('put_note');
    for (const n of [1, 2]) await sendTogether(client, [{ ...named, values: [n, 'a', []] }, 'COMMIT'], { place: null });
    await client.query({ ...named, values: [3, 'b', []] });
    const { rows } = await client.query(`SELECT count(*)::int FROM pg_prepared_statements WHERE name = 'put_note'`);
    expect(rows).toEqual([{ count: 1 }]);
    expect((await client.query('SELECT n FROM note ORDER BY n')).rows).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }]);
  });

  it('does nothing behind a statement that has failed, which is told, and its names can be used again', async () => {
    const begin = { name: 'begin_note', text: 'BEGIN' };
    const fail = { name: 'fail_note', text: 'SELECT 1 / $1::integer', values: [0] };
    const put = { ...insert('put_note'), values: [1, 'a', []] };
    const refused = sendTogether(client, [begin, fail, put, 'COMMIT'], { place: null });
    await expect(refused).rejects.toMatchObject({ done: 1, cause: expect.objectContaining({ code: '22012' }) });
    await expect(refused).rejects.toBeInstanceOf(BundleError);
    await client.query('ROLLBACK');
    await sendTogether(client, [begin, { ...fail, values: [1] }, put, 'COMMIT'], { place: null });
    expect((await client.query('SELECT n FROM note')).rows).toEqual([{ n: 1 }]);
  });
});
