import { pathsBelow, readText } from './repository.js';

/** A fenced block of code in a document. */
export interface Snippet {
  /** Path of the document, relative to the repository. */
  readonly document: string;
  readonly language: string;
  readonly code: string;
  /** Line of the document at which the code begins, from 1. */
  readonly line: number;
  /** The comment of Markdown right before it, if any. */
  readonly mark: string | null;
}

/** The documents that users and contributors read. */
export function documentPaths(): string[] {
  return pathsBelow('').filter((path) => path.endsWith('.md'));
}

export function snippetsOf(document: string): Snippet[] {
  const text = readText(document);
  const fences = text.matchAll(/(?:<!-- ([^]*?) -->\n\n)?^( *)```(\w+)\n([^]*?)^ *```$/gm);
  return [...fences].map((match) => {
    const [whole, mark, indent, language, code] = match;
    const begin = text.slice(0, match.index).split('\n').length + whole.split('```')[0]!.split('\n').length;
    const lines = code!.split('\n').map((line) => (line.startsWith(indent!) ? line.slice(indent!.length) : line));
    return { document, language: language!, code: lines.join('\n'), line: begin, mark: mark ?? null };
  });
}

/** The text of a document outside of its blocks of code. */
export function proseOf(document: string): string {
  return readText(document).replaceAll(/^ *```[^]*?^ *```$/gm, '');
}

/** The rows below the header of the first table behind a text, as cells. */
export function tableAfter(document: string, text: string): string[][] {
  const whole = readText(document);
  const from = whole.indexOf(text);
  if (from < 0) throw new Error(`${document} does not have the text "${text}".`);
  const table = /(?:^\|.*\|\n)+/m.exec(whole.slice(from));
  if (table === null) throw new Error(`${document} has no table behind "${text}".`);
  const [, , ...rows] = table[0].trim().split('\n');
  return rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

/** The `code` at the beginning of a cell. */
export function codeOf(cell: string | undefined): string {
  return /^`([^`]+)`/.exec(cell ?? '')?.[1] ?? `(no code in "${cell}")`;
}

/** The anchors of a document's headings, as GitHub makes them. */
export function anchorsOf(document: string): string[] {
  return [...proseOf(document).matchAll(/^#{1,6} (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

/** Targets of links that stay in the repository. */
export function relativeLinksOf(document: string): string[] {
  const targets = [...proseOf(document).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
  return targets.filter((target) => !/^[a-z]+:/.test(target));
}
