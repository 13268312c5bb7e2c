import { posix } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import * as nestmq from 'nestmq';
import pg from 'pg';
import ts from 'typescript';
import { DEFAULTS } from '../libs/queue/src/queue.options.js';
import { compileSnippets } from './support/compile-snippets.js';
import { useDatabase } from './support/database.js';
import {
  anchorsOf,
  codeOf,
  documentPaths,
  proseOf,
  relativeLinksOf,
  snippetsOf,
  tableAfter,
  type Snippet,
} from './support/documents.js';
import { pathsBelow, readText } from './support/repository.js';
import { startApp } from './support/app.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const SOURCE = 'libs/queue/src/';
const documents = documentPaths();
const snippets = documents.flatMap(snippetsOf);
const inLanguage = (language: string): Snippet[] => snippets.filter((snippet) => snippet.language === language);

/** Names of an interface's properties. */
function propertiesOf(path: string, name: string): string[] {
  const file = ts.createSourceFile(path, readText(`${SOURCE}${path}`), ts.ScriptTarget.Latest, true);
  const found = file.statements.find((node) => ts.isInterfaceDeclaration(node) && node.name.text === name);
  if (found === undefined) throw new Error(`${path} has no interface ${name}.`);
  return (found as ts.InterfaceDeclaration).members.map((member) => member.name!.getText());
}

const namesIn = (text: string, pattern: RegExp): string[] => [...text.matchAll(pattern)].map(([, name]) => name!);

const firstColumn = (rows: readonly string[][]): string[] => rows.map(([cell]) => codeOf(cell)).toSorted();

describe('snippets', () => {
  it('of TypeScript compile under the project’s own settings', () => {
    expect(inLanguage('ts').length).toBeGreaterThan(20);
    expect(compileSnippets(inLanguage('ts'))).toEqual([]);
  });

  it('that do not compile are found, with the line of the document', () => {
    const wrong = { document: 'docs/x.md', language: 'ts', line: 10, mark: null };
    const code = `const fine = 1;\nawait jobs.spawn(Mailer, 'welcome', { userId: 1 });\n`;
    const needed = inLanguage('ts').filter(({ code: other }) => other.startsWith('// src/reports.ts'));
    const found = compileSnippets([...needed, { ...wrong, code }]);
    expect(found).toEqual([expect.stringMatching(/^docs\/x\.md:11 /)]);
  });

  it('of the README that are marked so stand in the demo', () => {
    const marked = snippetsOf('README.md').filter(({ mark }) => mark?.startsWith('demo: '));
    expect(marked).toHaveLength(1);
    for (const { mark, code } of marked) {
      const demo = mark!.slice('demo: '.length).split(', ').map(readText).join('\n');
      // The demo's module imports more than this one.
      const classes = code.trim().split(/\n\n(?=@)/);
      expect(classes.pop()).toMatch(/^@Module/);
      expect(classes.length).toBeGreaterThan(1);
      for (const text of classes) expect(demo).toContain(text);
    }
  });

  it('of a shell name scripts that are there', () => {
    const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> };
    const text = documents.map(readText).join('\n');
    const named = [...namesIn(text, /npm run ([\w:-]+)/g), ...namesIn(text, /npm (start|test)\b/g)];
    expect(named).toEqual(expect.arrayContaining(['start', 'test', 'bench', 'start:http']));
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });
});

describe('the README', () => {
  it('says the two commands that show and prove it', () => {
    expect(readText('README.md')).toMatch(/^npm ci && npm start\b/m);
    expect(readText('README.md')).toMatch(/^npm ci && npm test\b/m);
  });
});

describe('links', () => {
  it('lead to files and headings that are there', () => {
    const paths = new Set(pathsBelow(''));
    const broken = documents.flatMap((document) =>
      relativeLinksOf(document).filter((link) => {
        const [file = '', anchor] = link.split('#');
        const target = file === '' ? document : posix.join(posix.dirname(document), file);
        const isThere = paths.has(target) || paths.has(`${target}/`);
        return !isThere || (anchor !== undefined && !anchorsOf(target).includes(anchor));
      }),
    );
    expect(documents.flatMap(relativeLinksOf).length).toBeGreaterThan(30);
    expect(broken).toEqual([]);
  });

  it('lead from the README to every page of docs/', () => {
    const pages = documents.filter((path) => path.startsWith('docs/'));
    expect(pages.length).toBeGreaterThan(10);
    expect(pages.filter((page) => !relativeLinksOf('README.md').includes(page))).toEqual([]);
  });
});

describe('tables of options', () => {
  const module = tableAfter('README.md', '<!-- options: QueueOptions QueueInstanceOptions isGlobal -->');

  it('name the options of the module, of handlers and of spawn calls, no more and no less', () => {
    const ofModule = ['QueueOptions', 'QueueInstanceOptions'].flatMap((name) => propertiesOf('queue.options.ts', name));
    expect(firstColumn(module)).toEqual([...ofModule, 'isGlobal'].toSorted());
    expect(firstColumn(tableAfter('README.md', '<!-- options: HandlerOptions -->'))).toEqual(
      propertiesOf('job/handler.ts', 'HandlerOptions').toSorted(),
    );
    const ofSpawn = ['JobSpawnOptions', 'TransactionOption'].flatMap((name) =>
      propertiesOf('spawn/spawn-options.ts', name),
    );
    expect(firstColumn(tableAfter('README.md', '<!-- options: JobSpawnOptions TransactionOption -->'))).toEqual(
      ofSpawn.toSorted(),
    );
  });

  it('say the defaults of the module', () => {
    const defaults = new Map(module.map(([option, , value]) => [codeOf(option), value!.replaceAll(/[`\s]/g, '')]));
    const flat = Object.entries(DEFAULTS).filter(([option]) => option !== 'defaults');
    const textOf = (value: unknown): string =>
      JSON.stringify(value)
        .replaceAll('"', '')
        .replaceAll(/([:,])/g, '$1');
    expect(flat.map(([option, value]) => [option, textOf(value)])).toEqual(
      flat.map(([option]) => [option, defaults.get(option)]),
    );
  });
});

describe('docs/errors.md', () => {
  it('lists the exported error classes with their codes', () => {
    const sources = pathsBelow(`${SOURCE}job/`).filter((path) => /errors\.ts$/.test(path));
    const codes = new Map(
      [
        ...sources
          .map(readText)
          .join('\n')
          .matchAll(/class (\w+) extends QueueError \{\n\s+readonly code = '(\w+)'/g),
      ].map(([, name, code]) => [name!, code!] as const),
    );
    const exported = Object.entries(nestmq)
      .filter(([, value]) => typeof value === 'function' && value.prototype instanceof nestmq.QueueError)
      .map(([name]) => [name, codes.get(name)]);
    const listed = tableAfter('docs/errors.md', '## Error classes').map(([name, code]) => [codeOf(name), codeOf(code)]);
    expect(exported.length).toBe(codes.size);
    expect(Object.fromEntries(listed)).toEqual(Object.fromEntries(exported));
    expect(listed).toHaveLength(exported.length);
  });

  it('lists the types of events', () => {
    const types = namesIn(readText(`${SOURCE}job/events.ts`), /readonly type: '([\w-]+)'/g);
    expect(types.length).toBeGreaterThan(5);
    expect(firstColumn(tableAfter('docs/errors.md', '## Events'))).toEqual(types.toSorted());
  });
});

describe('docs/lifecycle.md', () => {
  it('lists the states', () => {
    const union = /export type JobState =([^;]+);/.exec(readText(`${SOURCE}job/job.ts`))?.[1] ?? '';
    const states = namesIn(union, /'(\w+)'/g);
    expect(states.length).toBeGreaterThan(5);
    expect(firstColumn(tableAfter('docs/lifecycle.md', '## States'))).toEqual(states.toSorted());
  });
});

describe('docs/architecture.md', () => {
  it('names every folder of the source', () => {
    const folders = namesIn(pathsBelow(SOURCE).join('\n'), /^libs\/queue\/src\/(\w+\/)$/gm);
    expect(folders.length).toBeGreaterThan(5);
    expect(firstColumn(tableAfter('docs/architecture.md', '## The way of a job'))).toEqual(folders.toSorted());
  });
});

describe('on a migrated database', () => {
  let client: pg.Client;

  // Before the database is dropped: hooks run in this order.
  afterAll(() => client.end());

  const database = useDatabase();

  beforeAll(async () => {
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
  });

  const rowsOf = async (sql: string): Promise<string[][]> =>
    (await client.query<string[]>({ text: sql, rowMode: 'array' })).rows;

  it('docs/schema.md names every table, column and index', async () => {
    const columns = await rowsOf(
      `SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'nestmq'`,
    );
    const indexes = await rowsOf(`SELECT indexname FROM pg_indexes WHERE schemaname = 'nestmq'`);
    const tables = namesIn(proseOf('docs/schema.md'), /^## `(\w+)`$/gm);
    const listed = tables.flatMap((table) =>
      tableAfter('docs/schema.md', `## \`${table}\`\n`).map(([column]) => `${table}.${codeOf(column)}`),
    );
    expect(columns.length).toBeGreaterThan(30);
    expect(listed.toSorted()).toEqual(columns.map(([table, column]) => `${table}.${column}`).toSorted());
    expect(firstColumn(tableAfter('docs/schema.md', '## Indexes'))).toEqual(indexes.flat().toSorted());
  });

  it.each(inLanguage('sql').map((snippet) => [`${snippet.document}:${snippet.line}`, snippet.code]))(
    'the SQL of %s runs',
    async (_, code) => {
      await client.query('BEGIN');
      await expect(client.query(code)).resolves.toBeDefined();
      await client.query('ROLLBACK');
    },
  );

  it('there is SQL to run in docs/operations.md', () => {
    expect(inLanguage('sql').filter(({ document }) => document === 'docs/operations.md').length).toBeGreaterThan(8);
  });

  /** The rows that a query of docs/operations.md answers, found by a text of it. */
  async function answerOf(text: string): Promise<Record<string, unknown>[]> {
    const found = inLanguage('sql').filter(({ code }) => code.includes(text));
    expect(found).toHaveLength(1);
    return (await client.query<Record<string, unknown>>(found[0]!.code)).rows;
  }

  it('the monitoring queries count what queue.stats() counts, and name what runs and what is dead', async () => {
    const held = gate();
    const behaviours: Record<string, () => unknown> = {
      hold: () => held.opened,
      reject: () => Promise.reject(new nestmq.RejectJob('no such user')),
      retry: () => Promise.reject(new nestmq.RetryAfter('1h')),
    };
    const Worker = workWith({}, (job) => behaviours[job.payload as string]?.());
    const app = await startApp({ url: database.url, providers: [Worker] });
    await app.queue.pause('paused');
    for (const payload of ['hold', 'reject', 'retry']) await app.jobs.spawn('work', payload);
    await app.jobs.spawn('work', 'later', { delay: '1h' });
    await app.jobs.spawn('work', 'held', { hold: '1h' });
    await app.jobs.spawnMany([1, 2].map((payload) => ({ name: 'work', payload, channel: 'paused' })));
    await until(() => ['listening', 'dead', 'retrying'].every((kind) => app.events.some(({ type }) => type === kind)), {
      what: 'the runner listens and two runs have ended',
    });

    const counts = (await app.queue.stats()).map(
      ({ channel, ready, held: heldJobs, running, scheduled, retrying }) => ({
        channel,
        ...Object.fromEntries(
          Object.entries({ ready, held: heldJobs, running, scheduled, retrying }).map(([name, count]) => [
            name,
            String(count),
          ]),
        ),
      }),
    );
    expect(counts).toEqual([
      { channel: 'paused', ready: '2', held: '0', running: '0', scheduled: '0', retrying: '0' },
      { channel: 'work', ready: '0', held: '1', running: '1', scheduled: '1', retrying: '1' },
    ]);
    expect(await answerOf('AS oldest_ready')).toEqual(counts.map((count) => expect.objectContaining(count)));
    expect(await answerOf('known_to_have_started')).toMatchObject([{ pid: process.pid, name: 'work' }]);
    expect(await answerOf('silent_for')).toMatchObject([{ pid: process.pid, stopping: false, dead_at: null }]);
    expect(await answerOf('GROUP BY channel, name, reason')).toMatchObject([
      { channel: 'work', name: 'work', reason: 'rejected', count: '1' },
    ]);
    const roles = (await answerOf("LIKE 'nestmq %'")).map(({ application_name: role }) => role as string);
    expect([...new Set(roles)]).toEqual(firstColumn(tableAfter('docs/operations.md', '## Connections')));
    held.open();
    await app.close();
  });
});
