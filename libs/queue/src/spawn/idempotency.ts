import { contentHash } from '../job/content-hash.js';
import { durationMs } from '../job/duration.js';
import { InvalidOptionsError } from '../job/errors.js';
import { checkBoolean, checkName } from '../job/names.js';
import type { Idempotency } from '../statements/new-job.js';
import type { IdempotencyScope, JobSpawnOptions } from './spawn-options.js';

type IdempotencyOptions = Pick<JobSpawnOptions, 'idempotencyKey' | 'scope' | 'idempotencyTtl' | 'strict'>;

interface Content {
  readonly name: string;
  readonly payload: string | null;
  readonly bytes: Buffer | null;
}

/**
 * What keeps a job from being made twice, `null` when nothing does.
 *
 * @throws {InvalidOptionsError} when an option is wrong, or stands without the one that it is about
 */
export function idempotencyOf(options: IdempotencyOptions, { name, payload, bytes }: Content): Idempotency | null {
  const { idempotencyKey, scope, idempotencyTtl, strict } = options;
  if (idempotencyKey === undefined) {
    checkAlone('scope', scope, 'idempotencyKey');
    checkAlone('idempotencyTtl', idempotencyTtl, 'idempotencyKey');
    checkAlone('strict', strict, 'idempotencyKey');
    return null;
  }
  const idempotency = {
    key: checkName(idempotencyKey, 'idempotencyKey'),
    lastsMs: lastsMs(scope, idempotencyTtl),
    strict: strict === undefined ? false : checkBoolean(strict, 'strict'),
  };
  // A hash costs a tenth of all that the process does for a job: of a live one it can still be told when it is asked for.
  const isHashed = idempotency.strict || idempotency.lastsMs !== null;
  return { ...idempotency, hash: isHashed ? contentHash(name, payload, bytes) : null };
}

function lastsMs(scope: IdempotencyScope = 'active', ttl: unknown): number | null {
  if (scope === 'ttl') return durationMs(ttl, 'idempotencyTtl', 1);
  checkAlone('idempotencyTtl', ttl, "scope: 'ttl'");
  if (scope === 'active') return null;
  if (scope === 'forever') return Infinity;
  throw new InvalidOptionsError('scope', scope, "Give 'active', 'ttl' or 'forever'.");
}

function checkAlone(option: string, value: unknown, needed: string): void {
  if (value !== undefined) throw new InvalidOptionsError(option, value, `It needs \`${needed}\` beside it.`);
}
