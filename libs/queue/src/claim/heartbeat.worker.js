// A thread of its own, with a connection of its own: leases are renewed while a handler blocks the event loop of the
// process. It asks the main thread what is held; when no answer comes in time it goes on with the last one, for
// `blockedLimitMs` at most.
import { parentPort, workerData } from 'node:worker_threads';
import pg from 'pg';

/**
 * @typedef {object} Report what the main thread holds; `LeaseReport` and the runner's id
 * @property {string} runner
 * @property {number[]} held
 * @property {number[]} filled
 * @property {number} highest
 * @property {string[]} started
 */
/**
 * @typedef {object} Settings
 * @property {import('pg').ClientConfig} options
 * @property {string} begin
 * @property {string} text of the heartbeat statement
 * @property {string} commit
 * @property {number} intervalMs
 * @property {number} blockedLimitMs
 * @property {number} answerTimeoutMs
 * @property {boolean} asksForPassword the password is a function, which only the main thread has
 */

const port = /** @type {import('node:worker_threads').MessagePort} */ (parentPort);
const settings = /** @type {Settings} */ (workerData);

/** How long the main thread may take to say what it holds before the last answer is used again. */
const REPORT_PATIENCE_MS = 400;

/** @type {Report | null} */
let report = null;
let reportedAt = performance.now();
let stopping = false;
/** @type {pg.Client | null} */
let client = null;
/** @type {(() => void) | null} */
let wake = null;
/** A heartbeat was asked for; it may have been during one that knew less. */
let hurried = false;
/** @type {((report: Report | null) => void) | null} */
let onReport = null;
/** @type {((password: string | undefined) => void) | null} */
let onPassword = null;

port.on('message', (message) => {
  if (message.type === 'report') {
    report = message.report;
    reportedAt = performance.now();
    onReport?.(message.report);
  }
  if (message.type === 'password') onPassword?.(message.password);
  if (message.type === 'beat') {
    hurried = true;
    wake?.();
  }
  if (message.type === 'stop') {
    stopping = true;
    wake?.();
  }
});

void main();

async function main() {
  while (!stopping) {
    const began = performance.now();
    hurried = false;
    try {
      await beat();
    } catch (error) {
      await disconnect();
      port.postMessage({
        type: 'failed',
        message: error instanceof Error ? error.message || String(error) : String(error),
      });
    }
    if (!stopping && !hurried) await pause(Math.max(50, settings.intervalMs - (performance.now() - began)));
  }
  await disconnect();
  port.close();
}

async function beat() {
  const current = await askForReport();
  if (current === null) return;
  const blockedMs = performance.now() - reportedAt;
  if (blockedMs > settings.blockedLimitMs) {
    port.postMessage({ type: 'gave-up', blockedMs });
    return;
  }
  const connection = await connect();
  const [, { rows }] = await Promise.all([
    connection.query(settings.begin),
    connection.query({
      text: settings.text,
      values: [current.runner, current.held, current.highest, current.started],
      rowMode: 'array',
    }),
    connection.query(settings.commit),
  ]);
  port.postMessage({ type: 'beaten', columns: rows[0], report: current, at: monotonicMs() });
}

/** @returns {Promise<Report | null>} `null` while the runner is not registered */
function askForReport() {
  return new Promise((resolve) => {
    const timer = setTimeout(() => done(report), REPORT_PATIENCE_MS);
    /** @param {Report | null} answer */
    const done = (answer) => {
      clearTimeout(timer);
      onReport = null;
      resolve(answer);
    };
    onReport = done;
    port.postMessage({ type: 'ask', at: monotonicMs() });
  });
}

async function connect() {
  if (client !== null) return client;
  const password = settings.asksForPassword ? await askForPassword() : undefined;
  const fresh = new pg.Client({
    ...settings.options,
    ...(password !== undefined && { password }),
    application_name: 'nestmq renew',
    pipeline: true,
    query_timeout: settings.answerTimeoutMs,
  });
  // Without a listener the error of an idle connection would end the thread.
  fresh.on('error', () => void disconnect());
  await fresh.connect();
  client = fresh;
  return fresh;
}

/** @returns {Promise<string | undefined>} */
function askForPassword() {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the main thread gave no password in time')), 10_000);
    onPassword = (password) => {
      clearTimeout(timer);
      onPassword = null;
      resolve(password);
    };
    port.postMessage({ type: 'ask-password' });
  });
}

async function disconnect() {
  const old = client;
  client = null;
  await old?.end().catch(() => undefined);
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      wake = null;
      resolve(undefined);
    };
    const timer = setTimeout(done, ms);
    wake = done;
  });
}

/** The same clock in all threads of a process, and nobody sets it. */
function monotonicMs() {
  return Number(process.hrtime.bigint() / 1_000_000n);
}
