import { describe, expect, it } from '@jest/globals';
import ts from 'typescript';
import { pathsBelow, readText } from './support/repository.js';

interface Row {
  readonly behaviour: string;
  readonly file: string;
  readonly test: string;
}

const PAGE = 'docs/acceptance.md';
const files = new Set(['test/', 'libs/', 'apps/'].flatMap(pathsBelow).filter((path) => path.endsWith('spec.ts')));

/** The rows of all tables of the page, without their headers. */
const rows = readText(PAGE)
  .split('\n')
  .filter((line) => line.startsWith('|') && !/^\| (behaviour|-+) /.test(line))
  .map((line): Row => {
    const [behaviour, file, test] = line.split('|').slice(1, -1);
    return { behaviour: behaviour!.trim(), file: file!.trim().replaceAll('`', ''), test: test!.trim() };
  });

const parsed = new Map<string, ReadonlySet<string>>();

/** Names of the tests in a file behind those of the groups that they are in, as they are written. */
function testsIn(path: string): ReadonlySet<string> {
  const known = parsed.get(path) ?? parse(path);
  parsed.set(path, known);
  return known;
}

function parse(path: string): Set<string> {
  const names = new Set<string>();
  const visit = (node: ts.Node, groups: readonly string[]): void => {
    const [kind, name] = ts.isCallExpression(node) ? [node.expression.getText(), node.arguments[0]] : ['', undefined];
    const isNamed = name !== undefined && ts.isStringLiteralLike(name);
    const place = isNamed && /^(describe|it)\b/.test(kind) ? [...groups, name.text] : groups;
    if (isNamed && /^it\b/.test(kind)) names.add(place.join(' › '));
    ts.forEachChild(node, (child) => visit(child, place));
  };
  visit(ts.createSourceFile(path, readText(path), ts.ScriptTarget.Latest, true), []);
  return names;
}

function missing(wanted: readonly Row[]): string[] {
  return wanted
    .filter(({ file, test }) => !files.has(file) || !testsIn(file).has(test))
    .map(({ file, test }) => `${file} › ${test}`);
}

describe('docs/acceptance.md', () => {
  it('names tests that are there', () => {
    expect(rows.length).toBeGreaterThan(150);
    expect(missing(rows)).toEqual([]);
  });

  it('names none twice for one behaviour', () => {
    const lines = rows.map(({ behaviour, file, test }) => `${behaviour} › ${file} › ${test}`);
    expect(lines.filter((line, index) => lines.indexOf(line) !== index)).toEqual([]);
  });

  it('would be found to name a test or a file that is not there', () => {
    const [row] = rows;
    expect(missing([{ ...row!, test: 'works' }])).toEqual([`${row!.file} › works`]);
    expect(missing([{ ...row!, file: 'test/gone.spec.ts' }])).toEqual([`test/gone.spec.ts › ${row!.test}`]);
  });
});
