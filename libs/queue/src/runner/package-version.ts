import { readFileSync } from 'node:fs';

/** Folders above this file in which the package's own `package.json` may be: sources and build lie at different depths. */
const FOLDERS_UP = 6;

/** Version of this package, `null` where a bundler has taken it apart. */
export function packageVersion(): string | null {
  for (let up = 1; up <= FOLDERS_UP; up++) {
    try {
      const file = new URL(`${'../'.repeat(up)}package.json`, import.meta.url);
      const { name, version } = JSON.parse(readFileSync(file, 'utf8')) as { name?: string; version?: string };
      if (name === 'nestmq') return version ?? null;
    } catch {
      // not in this folder
    }
  }
  return null;
}
