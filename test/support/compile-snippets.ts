import { dirname } from 'node:path';
import ts from 'typescript';
import type { Snippet } from './documents.js';
import { readText, REPOSITORY } from './repository.js';

/** Nothing is written there: the compiler is given these files from memory. */
const ROOT = `${REPOSITORY}.snippets/`;

/** What a snippet may use without saying where it comes from. The rest of `nestmq` is added to it. */
const KNOWN_IMPORTS: Readonly<Record<string, readonly string[]>> = {
  '@nestjs/common': ['Injectable', 'Inject', 'Module'],
  '@nestjs/typeorm': ['TypeOrmModule'],
  typeorm: ['DataSource'],
  './context.js': [
    'jobs',
    'queue',
    'deadLetters',
    'dataSource',
    'post',
    'db',
    'Mailer',
    'SignUp',
    'Smtp',
    'User',
    'Reports',
  ],
};

/** The application around the snippets: the demo's sign-up, and the report of docs/getting-started.md. */
const CONTEXT = `
  import type { DeadLetters, JobSpawner, Queue } from 'nestmq';
  import type { DataSource } from 'typeorm';
  export declare const jobs: JobSpawner;
  export declare const queue: Queue;
  export declare const deadLetters: DeadLetters;
  export declare const dataSource: DataSource;
  export declare function post(url: string, options: { signal: AbortSignal }): Promise<void>;
  export { db } from '../apps/demo/src/database/db.js';
  export { Mailer } from '../apps/demo/src/sign-up/mailer.js';
  export { SignUp } from '../apps/demo/src/sign-up/sign-up.js';
  export { Smtp } from '../apps/demo/src/sign-up/smtp.js';
  export { User } from '../apps/demo/src/sign-up/user.entity.js';
  export { Reports } from './docs/getting-started.md/src/reports.js';
`;

/** Compiles snippets under the project's own settings; answers what is wrong, with the line of the document. */
export function compileSnippets(snippets: readonly Snippet[]): string[] {
  const places = new Map(snippets.map((snippet, index) => [pathOf(snippet, index), snippet]));
  const files = new Map([[`${ROOT}context.ts`, CONTEXT]]);
  for (const [path, { code }] of places) files.set(path, `${importsFor(path, code)}\n${code}`);
  const program = programOf(files);
  const found = [...files.keys()].flatMap((path) => {
    const file = program.getSourceFile(path)!;
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
  });
  return found.map((diagnostic) => describe(diagnostic, places));
}

/** A snippet that begins with `// src/….ts` is that file, and others of its document can import it. */
function pathOf({ document, code }: Snippet, index: number): string {
  const file = /^\/\/ (src\/[\w./-]+\.ts)\n/.exec(code)?.[1] ?? `snippet-${index}.ts`;
  return `${ROOT}${document}/${file}`;
}

function programOf(files: ReadonlyMap<string, string>): ts.Program {
  const { config } = ts.readConfigFile(`${REPOSITORY}tsconfig.json`, (path) => ts.sys.readFile(path));
  const parsed = ts.parseJsonConfigFileContent(config, { ...ts.sys, readDirectory: () => [] }, REPOSITORY);
  const options = { ...parsed.options, noEmit: true, declaration: false };
  const host = ts.createCompilerHost(options);
  const withSnippets: ts.CompilerHost = {
    ...host,
    fileExists: (path) => files.has(path) || host.fileExists(path),
    readFile: (path) => files.get(path) ?? host.readFile(path),
    directoryExists: (path) => path.startsWith(ROOT.slice(0, -1)) || ts.sys.directoryExists(path),
    getSourceFile: (path, ...rest) => {
      const text = files.get(path);
      return text === undefined ? host.getSourceFile(path, ...rest) : ts.createSourceFile(path, text, rest[0], true);
    },
  };
  return ts.createProgram([...files.keys()], options, withSnippets);
}

/** One line, so that lines are counted from it. */
function importsFor(path: string, code: string): string {
  const { used, declared } = namesIn(code);
  const missing = (names: readonly string[]): string[] =>
    names.filter((name) => used.has(name.replace('type ', '')) && !declared.has(name.replace('type ', '')));
  const toRoot = '../'.repeat(dirname(path.slice(ROOT.length)).split('/').length);
  const lines = Object.entries({ nestmq: publicNames(), ...KNOWN_IMPORTS }).flatMap(([from, names]) => {
    const module = from.startsWith('./') ? `${toRoot}${from.slice(2)}` : from;
    return missing(names).length > 0 ? [`import { ${missing(names).join(', ')} } from '${module}';`] : [];
  });
  return [...lines, 'export {};'].join(' ');
}

/** What nestmq exports: `JobHandler`, `type Job`. */
function publicNames(): string[] {
  const file = ts.createSourceFile('index.ts', readText('libs/queue/src/index.ts'), ts.ScriptTarget.Latest);
  return file.statements.flatMap((statement) => {
    if (!ts.isExportDeclaration(statement) || !statement.exportClause || !ts.isNamedExports(statement.exportClause)) {
      return [];
    }
    const { elements } = statement.exportClause;
    return elements.map(({ name, isTypeOnly }) => `${statement.isTypeOnly || isTypeOnly ? 'type ' : ''}${name.text}`);
  });
}

function namesIn(code: string): { used: ReadonlySet<string>; declared: ReadonlySet<string> } {
  const used = new Set<string>();
  const declared = new Set<string>();
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node)) used.add(node.text);
    const { name } = node as { name?: ts.Node };
    if (name !== undefined && ts.isIdentifier(name) && declaresVariable(node)) declared.add(name.text);
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile('snippet.ts', code, ts.ScriptTarget.Latest, true));
  return { used, declared };
}

function declaresVariable(node: ts.Node): boolean {
  return (
    ts.isVariableDeclaration(node) ||
    ts.isBindingElement(node) ||
    ts.isClassDeclaration(node) ||
    ts.isFunctionDeclaration(node) ||
    ts.isImportSpecifier(node) ||
    ts.isImportClause(node)
  );
}

function describe({ file, start = 0, messageText }: ts.Diagnostic, places: ReadonlyMap<string, Snippet>): string {
  const { line } = file!.getLineAndCharacterOfPosition(start);
  const snippet = places.get(file!.fileName);
  const place = snippet ? `${snippet.document}:${snippet.line + line - 1}` : `${file!.fileName}:${line + 1}`;
  return `${place} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
}
