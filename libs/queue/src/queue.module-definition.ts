import type { InjectionToken } from '@nestjs/common';
import { JobSpawner } from './spawn/job-spawner.js';
import { DeadLetters } from './inspect/dead-letters.js';
import { Queue } from './inspect/queue.js';
import { InvalidOptionsError } from './job/errors.js';

/** The unnamed queue. */
export const DEFAULT_INSTANCE = 'default';

const token = (what: string, instance: string): string => `nestmq:${what}:${instance}`;

export const optionsToken = (instance: string): string => token('options', instance);
export const instanceToken = (instance: string): string => token('instance', instance);

/**
 * Injection token of an instance's {@link JobSpawner}: the class itself for the unnamed one.
 *
 * @example constructor(@Inject(getJobSpawnerToken('billing')) private readonly jobs: JobSpawner) {}
 */
export function getJobSpawnerToken(instance: string = DEFAULT_INSTANCE): InjectionToken<JobSpawner> {
  return instance === DEFAULT_INSTANCE ? JobSpawner : token('spawner', instance);
}

/** Injection token of an instance's {@link Queue}: the class itself for the unnamed one. */
export function getQueueToken(instance: string = DEFAULT_INSTANCE): InjectionToken<Queue> {
  return instance === DEFAULT_INSTANCE ? Queue : token('queue', instance);
}

/** Injection token of an instance's {@link DeadLetters}: the class itself for the unnamed one. */
export function getDeadLettersToken(instance: string = DEFAULT_INSTANCE): InjectionToken<DeadLetters> {
  return instance === DEFAULT_INSTANCE ? DeadLetters : token('dead-letters', instance);
}

export function checkInstanceName(name: unknown): string {
  if (typeof name === 'string' && /^[\w-]{1,64}$/.test(name)) return name;
  throw new InvalidOptionsError('name', name, 'Give 1 to 64 letters, digits, dashes and underscores.');
}
