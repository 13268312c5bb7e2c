import { validatePayload } from '../job/validate-payload.js';
import { PayloadVersionError } from '../job/version-errors.js';
import type { RunningJob } from './running-job.js';

/** Whether there is anything to do: most jobs need not wait for it. */
export const needsPreparing = ({ handler, policy }: RunningJob): boolean =>
  handler.schema !== null || policy.payloadVersion !== handler.policy.payloadVersion;

/**
 * Makes of a job's stored payload what its handler takes: of the handler's version, and valid. The policy that the job was
 * spawned under names the version of its payload.
 *
 * @throws {PayloadVersionError} when the payload is of a newer release
 * @throws {PayloadInvalidError} when the schema refuses it, and whatever `upgrade` throws
 */
export async function preparePayload(job: RunningJob): Promise<void> {
  const { name, schema, upgrade, policy } = job.handler;
  const [from, to] = [job.policy.payloadVersion, policy.payloadVersion];
  if (from > to) throw new PayloadVersionError(name, from, to);
  if (from < to && upgrade !== null) job.payload = await upgrade(job.payload, from);
  if (schema !== null) job.payload = await validatePayload(schema, name, job.payload);
}
