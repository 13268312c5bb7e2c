import type { Logger } from '@nestjs/common';
import { messageOf } from '../job/errors.js';
import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { withinMs } from '../job/time-limit.js';
import type { SqlClient } from '../statements/statement.js';
import { run } from '../statements/statement.js';
import { loadPolicies, storePolicies } from '../statements/policies.js';

/** Claimed jobs wait for it, and can do without. */
const LEARN_LIMIT_MS = 2_000;

export type Transact = <T>(work: (client: SqlClient) => Promise<T>) => Promise<T>;

/** What handlers of this and other releases promise to their jobs. */
export class Policies {
  private readonly known = new Map<string, HandlerPolicy>();
  /** Asked for, and not there: not asked for again. */
  private readonly missing = new Set<string>();

  constructor(
    private readonly transact: Transact,
    private readonly logger: Logger,
  ) {}

  /** Stores those of this release, so that runners of others can obey them. */
  async store(handlers: readonly RegisteredHandler[]): Promise<void> {
    for (const { policyId, policy } of handlers) this.known.set(policyId, policy);
    const policies = handlers.map(({ policyId, name, policy }) => ({ id: policyId, name, policy }));
    if (policies.length > 0) await this.transact((client) => run(client, storePolicies, { policies }));
  }

  /** Fetches what the jobs refer to and this process does not know; a failure is logged, and the handler's own stands. */
  async learn(jobs: readonly ClaimedJob[]): Promise<void> {
    const unknown = new Set<string>();
    for (const { policyId } of jobs) {
      if (policyId !== null && !this.known.has(policyId) && !this.missing.has(policyId)) unknown.add(policyId);
    }
    if (unknown.size === 0) return;
    try {
      const stored = await withinMs(
        LEARN_LIMIT_MS,
        this.transact((client) => run(client, loadPolicies, { ids: [...unknown] })),
      );
      for (const { id, policy } of stored) this.known.set(id, policy);
      for (const id of unknown) if (!this.known.has(id)) this.missing.add(id);
    } catch (error) {
      this.logger.warn(
        `The options of jobs from another release could not be read, this one's are used: ${messageOf(error)}`,
      );
    }
  }

  of(job: ClaimedJob, handler: RegisteredHandler): HandlerPolicy {
    return (job.policyId === null ? undefined : this.known.get(job.policyId)) ?? handler.policy;
  }
}
