import type { Backoff } from '../job/backoff.js';
import type { HandlerPolicy, StoredPolicy } from '../job/handler.js';
import { defineStatement } from './statement.js';

/** Stores the policies of handlers, each version once. The id is a hash of the content, so a second time changes nothing. */
export const storePolicies = defineStatement<{ policies: readonly StoredPolicy[] }, string>({
  name: 'store_policies_v3',
  text: (schema) => `
  INSERT INTO ${schema}.handler_policy (id, name, retries, backoff, timeout_ms, retention_ms, dead_retention_ms, ordered, on_dead, keep_alive, payload_version)
  SELECT * FROM unnest($1::bigint[], $2::text[], $3::integer[], $4::json[], $5::bigint[], $6::bigint[], $7::bigint[], $8::boolean[], $9::text[], $10::boolean[], $11::integer[])
  ON CONFLICT (id) DO NOTHING
  RETURNING id`,
  values: ({ policies }) => [
    policies.map(({ id }) => id),
    policies.map(({ name }) => name),
    policies.map(({ policy }) => policy.retries),
    policies.map(({ policy }) => policy.backoff && JSON.stringify(policy.backoff)),
    policies.map(({ policy }) => policy.timeoutMs),
    policies.map(({ policy }) => policy.retentionMs),
    policies.map(({ policy }) => policy.deadRetentionMs),
    policies.map(({ policy }) => policy.ordered),
    policies.map(({ policy }) => policy.onDead),
    policies.map(({ policy }) => policy.keepAlive),
    policies.map(({ policy }) => policy.payloadVersion),
  ],
  row: ([id]) => id as string,
});

/** The policies that jobs of another release refer to. Index `handler_policy_pkey`. */
export const loadPolicies = defineStatement<{ ids: readonly string[] }, StoredPolicy>({
  name: 'load_policies_v3',
  text: (schema) => `
  SELECT id, name, retries, backoff, timeout_ms, retention_ms, dead_retention_ms, ordered, on_dead, keep_alive, payload_version
  FROM ${schema}.handler_policy
  WHERE id = ANY ($1::bigint[])`,
  values: ({ ids }) => [ids],
  row: ([
    id,
    name,
    retries,
    backoff,
    timeoutMs,
    retentionMs,
    deadRetentionMs,
    ordered,
    onDead,
    keepAlive,
    version,
  ]) => ({
    id: id as string,
    name: name as string,
    policy: {
      retries: retries as number | null,
      backoff: backoff as Backoff | null,
      timeoutMs: timeoutMs === null ? null : Number(timeoutMs),
      retentionMs: Number(retentionMs),
      deadRetentionMs: deadRetentionMs === null ? null : Number(deadRetentionMs),
      ordered: ordered as boolean,
      onDead: onDead as HandlerPolicy['onDead'],
      keepAlive: keepAlive as boolean,
      payloadVersion: version as number,
    },
  }),
});
