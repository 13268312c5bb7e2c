import { posix } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { pathsBelow, readText } from './support/repository.js';
import { parseSource, sourceFilesBelow, type SourceFile } from './support/source-files.js';

const SOURCE = 'libs/queue/src/';

/** A folder imports itself and what stands above it. Folders of one line are peers, and never import each other. */
const LAYERS: readonly (readonly string[])[] = [
  ['job'],
  ['statements'],
  ['postgres'],
  ['spawn', 'claim', 'handlers', 'execute', 'settle', 'maintenance', 'inspect'],
  ['runner'],
  ['module'],
  ['index'],
];

/** Packages that a layer may need at run time, beside what node brings. What is imported as a type leaves nothing behind. */
const RUNTIME_PACKAGES: Readonly<Record<string, readonly RegExp[]>> = {
  job: [],
  statements: [],
  postgres: [/^pg$/],
  claim: [/^pg$/],
  spawn: [],
  execute: [],
  settle: [],
  maintenance: [],
  inspect: [],
  // the last two only where an application gives a DTO class, and has them
  handlers: [/^@nestjs\//, /^class-(validator|transformer)$/],
  runner: [],
  module: [/^@nestjs\//, /^rxjs$/],
  index: [/^reflect-metadata$/],
};

const sources = sourceFilesBelow(SOURCE).filter(({ path }) => !path.endsWith('.spec.ts'));
const tests = [...sourceFilesBelow('test/'), ...sourceFilesBelow('libs/'), ...sourceFilesBelow('apps/')].filter(
  ({ path }) => path.startsWith('test/') || path.endsWith('spec.ts'),
);
const apps = sourceFilesBelow('apps/');
const documents = pathsBelow('').filter((path) => path.endsWith('.md'));

/** The folder of a file; `module` for the files of the module beside the folders, `index` for the public API. */
function folderOf(path: string): string {
  const [first, second] = path.slice(SOURCE.length).split('/');
  if (second !== undefined) return first!;
  return first === 'index.ts' ? 'index' : 'module';
}

const layerOf = (folder: string): number => LAYERS.findIndex((folders) => folders.includes(folder));

const isRelative = (from: string): boolean => from.startsWith('.');

function forbiddenImports(files: readonly SourceFile[]): string[] {
  return files.flatMap(({ path, imports }) => {
    const folder = folderOf(path);
    return imports
      .filter(({ from }) => isRelative(from))
      .map(({ from }) => posix.join(posix.dirname(path), from))
      .filter((target) => {
        const other = target.startsWith(SOURCE) ? folderOf(target.replace(/\.js$/, '.ts')) : '';
        return other !== folder && !(layerOf(other) >= 0 && layerOf(other) < layerOf(folder));
      })
      .map((target) => `${path} imports ${target}`);
  });
}

function forbiddenPackages(files: readonly SourceFile[]): string[] {
  return files.flatMap(({ path, imports }) =>
    imports
      .filter(({ from, typeOnly }) => !typeOnly && !isRelative(from) && !from.startsWith('node:'))
      .filter(({ from }) => !(RUNTIME_PACKAGES[folderOf(path)] ?? []).some((allowed) => allowed.test(from)))
      .map(({ from }) => `${path} imports ${from}`),
  );
}

const SQL =
  /\b(SELECT\s|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|CREATE\s+(TABLE|INDEX|SCHEMA)|ALTER\s|DROP\s|TRUNCATE\s|SET\s+LOCAL|BEGIN\b|COMMIT\b|ROLLBACK\b|SAVEPOINT|LISTEN\s|NOTIFY\s|VACUUM|pg_[a-z_]+\()/;

function sqlIn(files: readonly SourceFile[]): string[] {
  return files.flatMap(({ path, literals }) =>
    literals.filter((text) => SQL.test(text)).map((text) => `${path}: ${text}`),
  );
}

function sleepsIn(files: readonly SourceFile[]): string[] {
  const isSleep = (call: string): boolean =>
    /^(globalThis\.)?set(Timeout|Interval)$/.test(call) || /^sleep$/i.test(call);
  return files.flatMap(({ path, calls, imports }) => [
    ...calls.filter(isSleep).map((call) => `${path} calls ${call}`),
    ...imports
      .filter(({ from }) => /^(node:)?timers(\/promises)?$/.test(from))
      .map(({ from }) => `${path} imports ${from}`),
  ]);
}

/** What the code of a text in Markdown imports. */
function importsOfDocument(text: string): string[] {
  const blocks = [...text.matchAll(/```(?:ts|typescript|js|javascript)\n([^]*?)```/g)].map(([, code]) => code!);
  return blocks.flatMap((code) => parseSource('snippet.ts', code).imports.map(({ from }) => from));
}

const INTERNALS = /^nestmq\/(?!migrations$)|(^|\/)libs\/queue|(^|\/)migrations(\/|$)(?<!^nestmq\/migrations)/;

describe('layers', () => {
  it('have every folder of the source, each once', () => {
    const folders = new Set(sources.map(({ path }) => folderOf(path)));
    expect([...folders].toSorted()).toEqual(LAYERS.flat().toSorted());
  });

  it('import upwards of the list only, and peers never import each other', () => {
    expect(forbiddenImports(sources)).toEqual([]);
  });

  it('need no package at run time but their own: job and statements none, pg only postgres and the heartbeat thread', () => {
    expect(forbiddenPackages(sources)).toEqual([]);
    const claimWithPg = sources.filter(
      ({ path, imports }) =>
        folderOf(path) === 'claim' && imports.some(({ from, typeOnly }) => from === 'pg' && !typeOnly),
    );
    expect(claimWithPg.map(({ path }) => path)).toEqual([`${SOURCE}claim/heartbeat.worker.js`]);
  });

  it('are a rule that can fail', () => {
    const upward = parseSource(`${SOURCE}job/bad.ts`, `import { run } from '../statements/statement.js';`);
    const peer = parseSource(`${SOURCE}claim/bad.ts`, `import type { X } from '../settle/settler.js';`);
    const outside = parseSource(`${SOURCE}runner/bad.ts`, `import x from '../../../../migrations/index.js';`);
    expect(forbiddenImports([upward, peer, outside])).toHaveLength(3);
    const framework = parseSource(`${SOURCE}job/bad.ts`, `import { EntityManager, type DataSource } from 'typeorm';`);
    const type = parseSource(`${SOURCE}job/good.ts`, `import { type DataSource } from 'typeorm';`);
    const dynamic = parseSource(`${SOURCE}settle/bad.ts`, `const pg = await import('pg');`);
    expect(forbiddenPackages([framework, type, dynamic])).toHaveLength(2);
  });
});

describe('SQL', () => {
  it('stands in statements only, but for LISTEN, which takes no parameter', () => {
    const elsewhere = sources.filter(({ path }) => folderOf(path) !== 'statements');
    const found = sqlIn(elsewhere).filter((line) => !/^libs\/queue\/src\/postgres\/listener\.ts: `LISTEN "/.test(line));
    expect(found).toEqual([]);
  });

  it('is found where it is', () => {
    expect(sqlIn(sources.filter(({ path }) => folderOf(path) === 'statements')).length).toBeGreaterThan(10);
    expect(sqlIn([parseSource('bad.ts', 'query(`DELETE FROM job WHERE id = ${id}`)')])).toHaveLength(1);
  });
});

describe('the package', () => {
  it('imports nothing from the migrations, and they nothing from it', () => {
    const migrations = sourceFilesBelow('migrations/').flatMap(({ imports }) => imports.map(({ from }) => from));
    expect(migrations.length).toBeGreaterThan(0);
    expect(migrations.filter((from) => from !== 'typeorm' && !/^\.\/[^/]+\.js$/.test(from))).toEqual([]);
    expect(sources.flatMap(({ imports }) => imports.filter(({ from }) => from.includes('migrations')))).toEqual([]);
  });

  it('is imported as nestmq and nestmq/migrations by applications and documents', () => {
    const inApps = apps.flatMap(({ path, imports }) =>
      imports.filter(({ from }) => INTERNALS.test(from)).map(({ from }) => `${path} imports ${from}`),
    );
    const inDocuments = documents.flatMap((path) =>
      importsOfDocument(readText(path))
        .filter((from) => INTERNALS.test(from))
        .map((from) => `${path} imports ${from}`),
    );
    expect([...inApps, ...inDocuments]).toEqual([]);
  });

  it.each(['nestmq/dist/x.js', 'nestmq/testing/y', '../../../libs/queue/src/index.js', '../../migrations/index.js'])(
    'would be found to be imported as %s',
    (from) => {
      expect(INTERNALS.test(from)).toBe(true);
      expect(importsOfDocument(`text\n\`\`\`ts\nimport { x } from '${from}';\n\`\`\`\n`)).toEqual([from]);
    },
  );

  it.each(['nestmq', 'nestmq/migrations', './mailer.js', '@nestjs/common'])('may be imported as %s', (from) => {
    expect(INTERNALS.test(from)).toBe(false);
  });
});

describe('folders and files', () => {
  const paths = ['apps/', 'bench/', 'libs/', 'migrations/', 'scripts/', 'test/', 'docs/'].flatMap(pathsBelow);

  it('have names of the field: none is called utils, helpers or common', () => {
    const nameless = /(^|\/)(utils?|helpers?|common|misc|shared|lib)(\/|\.[a-z.]+)$/i;
    expect(paths.filter((path) => nameless.test(path))).toEqual([]);
    expect(nameless.test('libs/queue/src/utils/')).toBe(true);
    expect(nameless.test('test/support/helpers.ts')).toBe(true);
  });
});

describe('tests', () => {
  it('wait by test/support only', () => {
    expect(sleepsIn(tests.filter(({ path }) => !path.startsWith('test/support/')))).toEqual([]);
  });

  it('would be found to sleep', () => {
    expect(
      sleepsIn([parseSource('bad.spec.ts', 'await new Promise((resolve) => setTimeout(resolve, 50));')]),
    ).toHaveLength(1);
    expect(
      sleepsIn([parseSource('bad.spec.ts', `import { setTimeout as wait } from 'node:timers/promises';`)]),
    ).toHaveLength(1);
  });

  it('are not skipped, and none runs alone', () => {
    const isLeftOut = (call: string): boolean =>
      /^(x(it|describe|test)|f(it|describe)|(it|test|describe)\.(skip|only|todo))\b/.test(call);
    expect(tests.flatMap(({ path, calls }) => calls.filter(isLeftOut).map((call) => `${path}: ${call}`))).toEqual([]);
    expect(isLeftOut('it.skip')).toBe(true);
  });
});
