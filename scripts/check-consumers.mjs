// Packs the library and uses it as a stranger would: in an ES module, in a CommonJS module, and from TypeScript. Only what
// package.json promises is there (dependencies and peers), so an import of a devDependency shows.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const manifest = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8'));
const ENTRIES = Object.keys(manifest.exports)
  .filter((entry) => !entry.endsWith('.json'))
  .map((entry) => entry.replace(/^\./, manifest.name)); // nestmq, nestmq/migrations

const app = mkdtempSync(path.join(os.tmpdir(), 'nestmq-consumer-'));
try {
  installPackage();
  checkEsm();
  checkCommonJs();
  checkTypes();
  console.log('The package works for ESM, CommonJS and TypeScript.');
} finally {
  rmSync(app, { recursive: true, force: true });
}

function installPackage() {
  run('npm', ['pack', '--pack-destination', app], ROOT);
  const tarball = readdirSync(app).find((name) => name.endsWith('.tgz'));
  if (!tarball) throw new Error('npm pack made no tarball');
  const folder = path.join(app, 'node_modules', manifest.name);
  mkdirSync(folder, { recursive: true });
  run('tar', ['-xzf', path.join(app, tarball), '-C', folder, '--strip-components=1'], app);
  const types = ['@types/node', '@types/pg'];
  const promised = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies });
  for (const name of [...promised, ...types]) link(name);
}

/** @param {string} name */
function link(name) {
  const at = path.join(app, 'node_modules', name);
  mkdirSync(path.dirname(at), { recursive: true });
  symlinkSync(path.join(ROOT, 'node_modules', name), at, 'junction');
}

function checkEsm() {
  const lines = ENTRIES.map((entry, i) => `import * as e${i} from '${entry}';\n${report('import', entry, `e${i}`)}`);
  write('esm.mjs', ["import 'reflect-metadata';", ...lines]);
  run(process.execPath, ['esm.mjs'], app);
}

function checkCommonJs() {
  const lines = ENTRIES.map((entry, i) => `const e${i} = require('${entry}');\n${report('require', entry, `e${i}`)}`);
  write('commonjs.cjs', ["require('reflect-metadata');", ...lines]);
  run(process.execPath, ['commonjs.cjs'], app);
}

/** @param {string} how @param {string} entry @param {string} variable */
function report(how, entry, variable) {
  return [
    `const names = Object.keys(${variable}).filter((name) => name !== 'default' && name !== '__esModule').sort();`,
    `if (names.length === 0) throw new Error('${entry} exports nothing');`,
    `console.log("${how}('${entry}'):", names.join(', '));`,
  ]
    .join('\n')
    .replaceAll('names', `names_${variable}`);
}

function checkTypes() {
  const lines = ENTRIES.map((entry, i) => `import * as e${i} from '${entry}';\nexport const all${i}: object = e${i};`);
  write('esm-types.mts', lines);
  write('commonjs-types.cts', lines);
  const options = [
    '--noEmit',
    '--strict',
    '--skipLibCheck',
    '--module',
    'nodenext',
    '--target',
    'es2023',
    '--types',
    'node',
  ];
  const tsc = path.join(ROOT, 'node_modules/typescript/bin/tsc');
  run(process.execPath, [tsc, ...options, '--ignoreConfig', 'esm-types.mts', 'commonjs-types.cts'], app);
}

/** @param {string} name @param {string[]} lines */
function write(name, lines) {
  writeFileSync(path.join(app, name), `${lines.join('\n')}\n`);
}

/** @param {string} command @param {string[]} args @param {string} cwd */
function run(command, args, cwd) {
  execFileSync(command, args, { cwd, stdio: 'inherit' });
}
