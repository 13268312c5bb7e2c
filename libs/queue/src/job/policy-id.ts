import { createHash } from 'node:crypto';
import type { HandlerPolicy } from './handler.js';

/** A hash of what the policy says, so that every process computes the same id without asking. */
export function policyIdOf(name: string, policy: HandlerPolicy): string {
  const { retries, backoff, timeoutMs, retentionMs, deadRetentionMs, ordered, onDead, keepAlive } = policy;
  const numbers = backoff && [backoff.type, backoff.baseMs, backoff.factor, backoff.maxMs, backoff.jitter];
  const numbersAndFlags = [retries, numbers, timeoutMs, retentionMs, deadRetentionMs, ordered, onDead, keepAlive];
  const content = JSON.stringify([name, ...numbersAndFlags, policy.payloadVersion]);
  return createHash('sha256').update(content).digest().readBigInt64BE(0).toString();
}
