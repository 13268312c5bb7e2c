import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

const LEFT_OUT = new Set(['node_modules', 'dist', 'coverage', '.git', '.data']);

/** Every file and folder below a folder of the repository; folders end in a slash. */
export function pathsBelow(folder: string): string[] {
  let entries;
  try {
    entries = readdirSync(`${REPOSITORY}${folder}`, { withFileTypes: true });
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return [];
    throw error;
  }
  return entries.flatMap((entry) => {
    if (LEFT_OUT.has(entry.name)) return [];
    const path = `${folder}${entry.name}`;
    return entry.isDirectory() ? [`${path}/`, ...pathsBelow(`${path}/`)] : [path];
  });
}

export const readText = (path: string): string => readFileSync(`${REPOSITORY}${path}`, 'utf8');
