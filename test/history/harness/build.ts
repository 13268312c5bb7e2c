import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { pathsBelow, readText, REPOSITORY } from '../../support/source-files.js';

/** What the processes of the harness need, compiled so that they boot in half the time: many of them are killed. */
const COMPILED = ['libs/queue/src/', 'migrations/', 'test/history/', 'test/processes/', 'test/support/'];

const OPTIONS: ts.CompilerOptions = {
  module: ts.ModuleKind.ESNext,
  target: ts.ScriptTarget.ES2023,
  experimentalDecorators: true,
  emitDecoratorMetadata: true,
  inlineSourceMap: true,
};

/** In it, `nestmq` is what was compiled. */
const PACKAGE = {
  name: 'nestmq',
  type: 'module',
  exports: { '.': './libs/queue/src/index.js', './migrations': './migrations/index.js' },
};

/** Compiles the sources, unless they have been; answers the folder. */
export function buildProcesses(): string {
  const paths = COMPILED.flatMap(pathsBelow).filter((file) => /(?<!spec)\.(ts|js)$/.test(file));
  const sources = paths.map((file) => ({ file, text: readText(file) }));
  const hash = createHash('sha256').update(JSON.stringify(sources)).digest('hex').slice(0, 16);
  const folder = path.join(REPOSITORY, '.data', `history-${hash}`);
  if (!existsSync(folder)) write(folder, sources);
  return folder;
}

function write(folder: string, sources: readonly { file: string; text: string }[]): void {
  const unfinished = `${folder}.${randomUUID()}`; // renamed when it is whole: another harness may be looking for it
  for (const { file, text } of sources) {
    const target = path.join(unfinished, file.replace(/\.ts$/, '.js'));
    mkdirSync(path.dirname(target), { recursive: true });
    const compiled = file.endsWith('.ts')
      ? ts.transpileModule(text, { compilerOptions: OPTIONS, fileName: file }).outputText
      : text;
    writeFileSync(target, compiled);
  }
  writeFileSync(path.join(unfinished, 'package.json'), JSON.stringify(PACKAGE));
  try {
    renameSync(unfinished, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
    rmSync(unfinished, { recursive: true });
  }
}
