// Run it after each `npm install` that changes package-lock.json; it is told the folders that have one.
//
// Some registries and mirrors do not serve the platform packages of other systems (@swc/core-darwin-arm64 and the like).
// npm then leaves them out of the lock, and `npm ci` stops with "Missing: ... from lock file" on every machine. This adds
// them, and takes out the addresses of the registry at hand, so that the lock suits every registry.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/**
 * @typedef {object} Locked
 * @property {Record<string, string>} [optionalDependencies]
 * @property {Record<string, string>} [engines]
 * @property {boolean} [dev]
 * @property {string} [resolved]
 */

const SYSTEMS = ['darwin', 'linux', 'win32', 'windows', 'freebsd', 'android', 'openharmony'];
const PROCESSORS = ['x64', 'arm64', 'ia32', 'arm', 'ppc64', 's390x', 'riscv64', 'loong64', 'wasm32'];

for (const folder of process.argv.slice(2)) complete(path.join(folder, 'package-lock.json'));

/** @param {string} file */
function complete(file) {
  const lock = JSON.parse(readFileSync(file, 'utf8'));
  /** @type {Record<string, Locked>} */
  const packages = lock.packages;
  let added = 0;
  for (const [at, parent] of Object.entries(packages)) {
    delete parent.resolved;
    for (const [name, range] of Object.entries(parent.optionalDependencies ?? {})) {
      const known = packages[`${at}/node_modules/${name}`] ?? packages[`node_modules/${name}`];
      if (known || !at) continue;
      if (/^\d/.test(range)) {
        packages[`node_modules/${name}`] = entryFor(name, range, parent);
        added++;
      } else {
        console.log(`skipped ${name}: "${range}" is a range, not a version`);
      }
    }
  }
  const sorted = Object.entries(packages).sort(([a], [b]) => (a < b ? -1 : 1)); // '', the root, stays first
  lock.packages = Object.fromEntries(sorted);
  writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
  console.log(`${added} packages added to ${file}`);
}

/** @param {string} name @param {string} version @param {Locked} parent */
function entryFor(name, version, parent) {
  const system = wordIn(name, SYSTEMS)?.replace('windows', 'win32');
  const processor = wordIn(name, PROCESSORS);
  return {
    version,
    ...(processor && { cpu: [processor] }),
    ...(parent.dev && { dev: true }),
    optional: true,
    ...(system && { os: [system] }),
    ...(parent.engines && { engines: parent.engines }),
  };
}

/** @param {string} name @param {string[]} words */
function wordIn(name, words) {
  return words.find((word) => new RegExp(`(^|[-/])${word}([-.]|$)`).test(name));
}
