import type { StandardSchemaV1 } from '@standard-schema/spec';
import { resolveBackoff } from '../job/backoff.js';
import { durationMs } from '../job/duration.js';
import { InvalidOptionsError } from '../job/errors.js';
import type { JobBatch } from '../job/batch.js';
import type {
  HandlerOptions,
  HandlerPolicy,
  HandlerPreset,
  IsolationLevel,
  OnDead,
  PayloadUpgrade,
  RegisteredHandler,
} from '../job/handler.js';
import type { Job } from '../job/job.js';
import { checkBoolean, checkInteger, checkName, checkPriority, checkRetries } from '../job/names.js';
import { MAX_PARTITIONS } from '../job/partition.js';
import { policyIdOf } from '../job/policy-id.js';
import { dtoSchema, type DtoClass } from './dto-schema.js';
import type { HandlerMetadata } from './job-handler.decorator.js';

/** One claim brings no more. */
const MAX_BATCH = 500;

const LIBRARY_DEFAULTS = {
  retries: 4,
  backoff: {},
  retention: 0,
  priority: 0,
  completion: 'auto',
  keepAlive: true,
  onDead: 'skip',
  transactional: false,
  isolation: 'READ COMMITTED',
  version: 1,
} as const satisfies HandlerOptions;

const KNOWN_OPTIONS = new Set<string>([
  'name',
  'formerNames',
  'retries',
  'backoff',
  'timeout',
  'schema',
  'version',
  'upgrade',
  'retention',
  'deadRetention',
  'ordered',
  'partitions',
  'batch',
  'onReject',
  'onDead',
  'concurrency',
  'priority',
  'preset',
  'instance',
  'completion',
  'transactional',
  'isolation',
  'keepAlive',
  'onError',
  'isRetryable',
] satisfies (keyof HandlerOptions)[]);

export interface HandlerSource {
  /** `Class.method` */
  readonly label: string;
  readonly metadata: HandlerMetadata;
  readonly invoke: (work: Job | JobBatch) => unknown;
}

/**
 * Puts a handler's options together and checks them.
 *
 * @param moduleDefaults `defaults` of the module
 * @throws {InvalidOptionsError} naming the handler and the option
 */
export function resolveHandler(
  { label, metadata, invoke }: HandlerSource,
  moduleDefaults: HandlerPreset,
): RegisteredHandler {
  const options = mergeOptions(label, metadata.options, moduleDefaults);
  const at = (option: string): string => `${label}: ${option}`;
  const name = checkName(options.name ?? label, at('name'));
  const policy = resolvePolicy(options, at);
  return {
    name,
    formerNames: checkFormerNames(options.formerNames ?? [], at('formerNames')),
    channel: checkName(metadata.channel, at('channel')),
    priority: checkPriority(options.priority, at('priority')),
    concurrency:
      options.concurrency === undefined ? null : checkInteger(options.concurrency, at('concurrency'), 1, 10_000),
    onReject: checkOnReject(options, at),
    batch: checkBatch(options, metadata.options, at),
    partitions: checkPartitions(options, at),
    policy,
    policyId: policyIdOf(name, policy),
    backoffFunction: typeof options.backoff === 'function' ? options.backoff : null,
    schema: options.schema === undefined ? null : checkSchema(options.schema, at('schema')),
    upgrade: checkUpgrade(options, at),
    completion: checkCompletion(options.completion, at('completion')),
    isolation: resolveIsolation(options, at),
    onError: checkFunction(options.onError, at('onError')),
    isRetryable: checkFunction(options.isRetryable, at('isRetryable')),
    label,
    invoke,
  };
}

function mergeOptions(label: string, own: HandlerOptions, moduleDefaults: HandlerPreset): HandlerOptions {
  const preset = optionsOf(own.preset, label, 'preset');
  const defaults = optionsOf(moduleDefaults, label, 'defaults');
  const merged: HandlerOptions = { ...LIBRARY_DEFAULTS, ...defined(defaults), ...defined(preset), ...defined(own) };
  for (const option of Object.keys(merged)) {
    if (KNOWN_OPTIONS.has(option)) continue;
    throw new InvalidOptionsError(
      `${label}: ${option}`,
      merged[option as keyof HandlerOptions],
      `There is no such option. Known: ${[...KNOWN_OPTIONS].join(', ')}.`,
    );
  }
  return merged;
}

function checkFormerNames(names: unknown, option: string): readonly string[] {
  if (!Array.isArray(names)) throw new InvalidOptionsError(option, names, 'Give an array of names.');
  return names.map((name) => checkName(name, option));
}

/** What a preset or the module's defaults say of one handler. */
function optionsOf(preset: unknown, label: string, option: string): HandlerOptions {
  const options: unknown =
    typeof preset === 'function' ? (preset as (handler: string) => unknown)(label) : (preset ?? {});
  if (typeof options === 'object' && options !== null && !Array.isArray(options)) return options;
  throw new InvalidOptionsError(
    `${label}: ${option}`,
    options,
    'Give an object of handler options, or a function that answers one.',
  );
}

/** An option given as `undefined` does not hide what stands below it. */
function defined(options: HandlerOptions | undefined): HandlerOptions {
  return Object.fromEntries(Object.entries(options ?? {}).filter(([, value]) => value !== undefined));
}

function resolvePolicy(options: HandlerOptions, at: (option: string) => string): HandlerPolicy {
  const { backoff, timeout, retention, deadRetention, keepAlive } = options;
  return {
    retries: checkRetries(options.retries, at('retries')),
    backoff: typeof backoff === 'function' ? null : resolveBackoff(backoff ?? {}, at('backoff')),
    timeoutMs: timeout === undefined ? null : durationMs(timeout, at('timeout'), 1, 2_147_483_647),
    retentionMs: durationMs(retention, at('retention')),
    deadRetentionMs: deadRetention === undefined ? null : durationMs(deadRetention, at('deadRetention')),
    keepAlive: checkBoolean(keepAlive, at('keepAlive')),
    ordered: checkBoolean(options.ordered ?? options.partitions !== undefined, at('ordered')),
    onDead: checkOnDead(options.onDead, at('onDead')),
    payloadVersion: checkInteger(options.version, at('version'), 1, 1_000_000),
  };
}

function checkPartitions({ partitions, ordered }: HandlerOptions, at: (option: string) => string): number | null {
  if (partitions === undefined) return null;
  if (ordered === false) {
    throw new InvalidOptionsError(at('ordered'), ordered, 'Partitions are ordered lanes: leave it out, or give true.');
  }
  return checkInteger(partitions, at('partitions'), 1, MAX_PARTITIONS);
}

/** What the method is given must be seen where it is declared. */
function checkBatch(merged: HandlerOptions, own: HandlerOptions, at: (option: string) => string): number | null {
  const { batch, keepAlive } = merged;
  if (batch === undefined) return null;
  if (own.batch === undefined) {
    throw new InvalidOptionsError(at('batch'), batch, 'Give it with @JobHandler: the method gets a JobBatch then.');
  }
  if (keepAlive === false) {
    throw new InvalidOptionsError(
      at('keepAlive'),
      keepAlive,
      'The leases of a batch are kept alive: give a `timeout`.',
    );
  }
  return checkInteger(batch, at('batch'), 1, MAX_BATCH);
}

function checkOnReject(options: HandlerOptions, at: (option: string) => string): 'job' | 'batch' {
  const { onReject, batch, transactional } = options;
  if (onReject === undefined) return 'job';
  if (onReject !== 'job' && onReject !== 'batch') {
    throw new InvalidOptionsError(at('onReject'), onReject, "Give 'job' or 'batch'.");
  }
  if (batch !== undefined && transactional === true) return onReject;
  throw new InvalidOptionsError(at('onReject'), onReject, 'It is for a `batch` that is `transactional`: leave it out.');
}

function checkOnDead(onDead: unknown, option: string): OnDead {
  if (onDead === 'skip' || onDead === 'block') return onDead;
  throw new InvalidOptionsError(option, onDead, "Give 'skip' or 'block'.");
}

function checkSchema(schema: unknown, option: string): StandardSchemaV1 {
  const standard = (schema as StandardSchemaV1 | null)?.['~standard'];
  if (typeof standard?.validate === 'function') return schema as StandardSchemaV1;
  if (typeof schema === 'function') return dtoSchema(schema as DtoClass, option);
  throw new InvalidOptionsError(
    option,
    schema,
    'Give a Standard Schema, such as one of zod or valibot, or a DTO class.',
  );
}

function checkUpgrade({ upgrade, version }: HandlerOptions, at: (option: string) => string): PayloadUpgrade | null {
  const checked = checkFunction(upgrade, at('upgrade'));
  if (checked === null || version !== 1) return checked;
  const cure = 'There is nothing older than `version` 1. Give the payload that it makes a `version` of 2 or more.';
  throw new InvalidOptionsError(at('upgrade'), upgrade, cure);
}

function checkCompletion(completion: unknown, option: string): 'auto' | 'manual' {
  if (completion === 'auto' || completion === 'manual') return completion;
  throw new InvalidOptionsError(option, completion, 'Give "auto" or "manual".');
}

const LEVELS: readonly unknown[] = ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] satisfies IsolationLevel[];

function resolveIsolation(
  { transactional, isolation }: HandlerOptions,
  at: (option: string) => string,
): IsolationLevel | null {
  if (!LEVELS.includes(isolation)) {
    throw new InvalidOptionsError(at('isolation'), isolation, `Give one of ${LEVELS.join(', ')}.`);
  }
  return checkBoolean(transactional, at('transactional')) ? (isolation as IsolationLevel) : null;
}

function checkFunction<F>(given: F | undefined, option: string): F | null {
  if (given === undefined) return null;
  if (typeof given === 'function') return given;
  throw new InvalidOptionsError(option, given, 'Give a function.');
}
