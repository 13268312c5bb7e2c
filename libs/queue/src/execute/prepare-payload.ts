import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import { validatePayload } from '../job/validate-payload.js';
import { PayloadVersionError } from '../job/version-errors.js';
import type { RunningJob } from './running-job.js';

/** Whether there is anything to do: most jobs need not wait for it. */
export const needsPreparing = ({ schema, policy }: RegisteredHandler, { payloadVersion }: HandlerPolicy): boolean =>
  schema !== null || payloadVersion !== policy.payloadVersion;

/**
 * Makes of a job's stored payload what its handler takes: of the handler's version, and valid.
 *
 * @param policy what the job was spawned under, which names the version of its payload
 * @throws {PayloadVersionError} when the payload is of a newer release
 * @throws {PayloadInvalidError} when the schema refuses it, and whatever `upgrade` throws
 */
export async function preparePayload(
  job: RunningJob,
  { name, schema, upgrade, policy: { payloadVersion } }: RegisteredHandler,
  policy: HandlerPolicy,
): Promise<void> {
  const from = policy.payloadVersion;
  if (from > payloadVersion) throw new PayloadVersionError(name, from, payloadVersion);
  if (from < payloadVersion && upgrade !== null) job.payload = await upgrade(job.payload, from);
  if (schema !== null) job.payload = await validatePayload(schema, name, job.payload);
}
