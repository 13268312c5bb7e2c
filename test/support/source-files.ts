import ts from 'typescript';
import { pathsBelow, readText } from './repository.js';

/** A source file as the rules of the architecture look at it. Paths are relative to the repository. */
export interface SourceFile {
  readonly path: string;
  readonly imports: readonly Import[];
  /** Text of string and template literals, comments left out. */
  readonly literals: readonly string[];
  /** Names of functions called, `setTimeout` or `jest.fn`. */
  readonly calls: readonly string[];
}

export interface Import {
  readonly from: string;
  /** Erased by the compiler: nothing of it is there at run time. */
  readonly typeOnly: boolean;
}

export function sourceFilesBelow(folder: string): SourceFile[] {
  return pathsBelow(folder)
    .filter((path) => /\.(ts|mts|js|mjs)$/.test(path))
    .map((path) => parseSource(path, readText(path)));
}

export function parseSource(path: string, text: string): SourceFile {
  const imports: Import[] = [];
  const literals: string[] = [];
  const calls: string[] = [];
  const visit = (node: ts.Node): void => {
    const found = importOf(node);
    if (found !== undefined) imports.push(found);
    else if (ts.isStringLiteralLike(node) || ts.isTemplateExpression(node)) literals.push(node.getText());
    else if (ts.isCallExpression(node)) calls.push(node.expression.getText());
    if (found === undefined) ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true));
  return { path, imports, literals, calls };
}

function importOf(node: ts.Node): Import | undefined {
  if (ts.isImportDeclaration(node))
    return { from: textOf(node.moduleSpecifier), typeOnly: isErased(node.importClause) };
  if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
    return { from: textOf(node.moduleSpecifier), typeOnly: node.isTypeOnly };
  }
  if (ts.isImportTypeNode(node)) return { from: textOf((node.argument as ts.LiteralTypeNode).literal), typeOnly: true };
  const called = ts.isCallExpression(node) ? node.expression.getText() : '';
  const [argument] = ts.isCallExpression(node) ? node.arguments : [];
  if ((called === 'import' || called === 'require') && argument && ts.isStringLiteralLike(argument)) {
    return { from: argument.text, typeOnly: false };
  }
  return undefined;
}

/** `import type …`, or braces in which every name says `type`. */
function isErased(clause: ts.ImportClause | undefined): boolean {
  if (clause === undefined) return false;
  if (clause.isTypeOnly) return true;
  const { name, namedBindings } = clause;
  if (name !== undefined || namedBindings === undefined || !ts.isNamedImports(namedBindings)) return false;
  return namedBindings.elements.length > 0 && namedBindings.elements.every(({ isTypeOnly }) => isTypeOnly);
}

function textOf(node: ts.Node): string {
  return ts.isStringLiteralLike(node) ? node.text : node.getText();
}
