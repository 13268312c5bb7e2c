import { QueueError } from './errors.js';

/**
 * A job was spawned by a newer release, whose payload this process's handler does not know. The run does not count: the
 * job waits for a process of that release. Recorded as the job's last error.
 */
export class PayloadVersionError extends QueueError {
  readonly code = 'payload_version';

  constructor(
    readonly jobName: string,
    readonly version: number,
    readonly known: number,
  ) {
    super(
      `The payload of this job "${jobName}" is of version ${version}, this process knows ${known} at most. It runs in a process of the release that spawned it: finish the deploy.`,
    );
  }
}
