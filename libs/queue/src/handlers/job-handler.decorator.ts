import type { HandlerOptions } from '../job/handler.js';
import type { JobBatch } from '../job/batch.js';
import type { Job } from '../job/job.js';

/** What the decorator leaves on a method; checked and resolved at boot. */
export interface HandlerMetadata {
  readonly channel: string;
  readonly options: HandlerOptions;
}

const HANDLER_METADATA = 'nestmq:handler';

/**
 * Makes a method of a provider or controller the handler of a job.
 *
 * The job's name is `Class.method` unless `name` says otherwise. Returning completes the job; throwing retries it, or
 * ends it when no attempts are left; {@link RejectJob}, {@link RetryAfter} and {@link SnoozeJob} steer.
 *
 * @param channel named stream of jobs, 1 to 255 bytes; made by use
 * @example
 * \@JobHandler('mail', { retries: 4, backoff: '1s', timeout: '30s' })
 * async welcome(job: Job<{ userId: string }>) { … }
 *
 * \@JobHandler('index', { batch: 100 })
 * async index(batch: JobBatch<{ articleId: string }>) { … }
 */
export function JobHandler(
  channel: string,
  options: HandlerOptions & { batch: number },
): HandlerDecorator<JobBatch<never>>;
export function JobHandler(channel: string, options?: HandlerOptions): HandlerDecorator<Job<never>>;
export function JobHandler(channel: string, options: HandlerOptions = {}): HandlerDecorator<never> {
  return (_target, _method, descriptor) => {
    Reflect.defineMetadata(HANDLER_METADATA, { channel, options } satisfies HandlerMetadata, descriptor.value!);
  };
}

/** `Job<never>`: any payload type fits, and so does a handler that takes no job at all. */
type HandlerDecorator<Work> = <Handler extends (work: Work) => unknown>(
  target: object,
  method: string,
  descriptor: TypedPropertyDescriptor<Handler>,
) => void;

/** Whether the queue of this name serves the handler. */
export function belongsTo({ options }: HandlerMetadata, instance: string): boolean {
  return (options.instance ?? 'default') === instance;
}

/** What `@JobHandler` has left on a method, if anything. */
export function handlerMetadataOf(method: unknown): HandlerMetadata | undefined {
  return typeof method === 'function'
    ? (Reflect.getMetadata(HANDLER_METADATA, method) as HandlerMetadata | undefined)
    : undefined;
}
