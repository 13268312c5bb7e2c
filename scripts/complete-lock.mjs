// Adds the platform packages which the registry at hand does not serve to package-lock.json, so that `npm ci` accepts it anywhere.
import { readFileSync, writeFileSync } from 'node:fs';

const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
const match = (name, words) => words.find((word) => new RegExp(`(^|[-/])${word}([-.]|$)`).test(name));
let added = 0;
for (const [at, parent] of Object.entries(lock.packages)) {
  for (const [name, range] of Object.entries(parent.optionalDependencies ?? {})) {
    if (lock.packages[`${at}/node_modules/${name}`] || lock.packages[`node_modules/${name}`] || !at) continue;
    const os = match(name, ['darwin', 'linux', 'win32', 'windows', 'freebsd', 'android', 'openharmony']);
    const cpu = match(name, ['x64', 'arm64', 'ia32', 'arm', 'ppc64', 's390x', 'riscv64', 'loong64', 'wasm32']);
    if (!/^\d/.test(range)) {
      console.log('skipped', name, range);
      continue;
    }
    lock.packages[`node_modules/${name}`] = {
      version: range,
      ...(cpu && { cpu: [cpu] }),
      ...(parent.dev && { dev: true }),
      optional: true,
      ...(os && { os: [os] }),
      ...(parent.engines && { engines: parent.engines }),
    };
    added++;
  }
}
const { '': root, ...rest } = lock.packages;
lock.packages = { '': root, ...Object.fromEntries(Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1))) };
writeFileSync('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`);
console.log('added', added);
