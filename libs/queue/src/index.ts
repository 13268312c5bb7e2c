import 'reflect-metadata';

export {
  QueueModule,
  type QueueModuleAsyncOptions,
  type QueueModuleOptions,
  type QueueOptionsFactory,
} from './queue.module.js';
export { getDeadLettersToken, getJobSpawnerToken, getQueueToken } from './queue.module-definition.js';
export type { Concurrency, QueueInstanceOptions, QueueOptions, Shutdown } from './queue.options.js';

export { JobHandler } from './handlers/job-handler.decorator.js';
export type {
  ErrorContext,
  ErrorHook,
  HandlerClass,
  HandlerOptions,
  HandlerPreset,
  IsolationLevel,
  OnDead,
  PayloadUpgrade,
} from './job/handler.js';
export type { BackoffFunction, BackoffOptions, BackoffType } from './job/backoff.js';
export type { Duration } from './job/duration.js';

export type {
  CheckpointChanges,
  CompleteOptions,
  Job,
  JobId,
  JobProgress,
  JobState,
  Json,
  ProgressReport,
} from './job/job.js';
export type { JobBatch } from './job/batch.js';
export { RejectJob, RetryAfter, SnoozeJob } from './job/steering.js';

export { JobSpawner } from './spawn/job-spawner.js';
export { Reservation } from './spawn/reservation.js';
export type {
  HandlerMethod,
  HoldOption,
  IdempotencyScope,
  JobSpawnOptions,
  PayloadOf,
  SpawnItem,
  SpawnOptions,
  SpawnResult,
  TransactionOption,
} from './spawn/spawn-options.js';

export { Queue, type ListLanesOptions } from './inspect/queue.js';
export {
  DeadLetters,
  type DeadLetterPage,
  type LetterBulkOptions,
  type LetterNoteOptions,
  type ListDeadLettersOptions,
  type TakeOptions,
} from './inspect/dead-letters.js';
export type { DeadLetterFilter } from './inspect/letter-filter.js';
export type { DeadLetterTarget } from './inspect/letter-writer.js';
export type { DeadLetter, DeadLetterState } from './statements/dead-letters.js';
export type { LaneBlock, LaneRecord } from './statements/list-lanes.js';
export type { PartitionRecord } from './statements/partitions.js';
export type { CancelCounts, CancelFilter, CancelOptions, CancelResult } from './inspect/canceller.js';
export type { ClearOptions } from './inspect/clear-channels.js';
export type { WaitOptions } from './inspect/job-waiter.js';
export type { ChannelStats } from './inspect/channel-stats.js';
export type { QueueStatistics } from './inspect/statistics.js';
export type { JobFilter, JobPage, ListJobsOptions } from './inspect/job-list.js';
export type { StatsCell } from './statements/count-channels.js';
export type { JobRecord } from './statements/inspect-jobs.js';
export type { RunnerRecord } from './statements/list-runners.js';
export type { JobFacts, QueueEvent } from './job/events.js';
export type { ReservationReason } from './job/errors.js';
export type { RunOneOptions, RunOneResult } from './job/run-one.js';
export type { DeadReason } from './job/outcome.js';

export {
  ChannelBusyError,
  JobCancelledError,
  JobDeadError,
  JobNotFoundError,
  WaitTimeoutError,
} from './job/control-errors.js';
export { NotTransactionalError } from './job/run-errors.js';
export { PartitionCountMismatchError, PartitionOutOfRangeError } from './job/partition-errors.js';
export { PayloadVersionError } from './job/version-errors.js';
export { IdempotencyConflictError } from './job/idempotency-errors.js';
export {
  DatabaseUnavailableError,
  DuplicateHandlerError,
  DuplicateInstanceError,
  InvalidManagerError,
  InvalidOptionsError,
  InvalidTransitionError,
  JobTimeoutError,
  LeaseLostError,
  PayloadInvalidError,
  PayloadTooLargeError,
  QueueClosedError,
  QueueError,
  ReservationError,
  SchemaMissingError,
  SpawnItemError,
  TransactionAbortedError,
  TransactionConflictError,
  UnknownJobError,
  UnsupportedDataSourceError,
} from './job/errors.js';
