import { messageOf } from '../job/errors.js';
import type { ErrorContext, ErrorHook, RegisteredHandler } from '../job/handler.js';
import type { Job } from '../job/job.js';
import type { Outcome } from '../job/outcome.js';

/** Tells the application of failed runs, the handler's own hook before the module's. A hook that fails is logged. */
export class ErrorHooks {
  private readonly calling = new Set<Promise<void>>();

  constructor(
    private readonly ofModule: ErrorHook | null,
    private readonly hookFailed: (what: string) => void,
  ) {}

  /** What to do once a run's end is written; `undefined` when nobody wants to hear. */
  of(handler: RegisteredHandler, job: Job): ((written: Outcome) => void) | undefined {
    const { ofModule } = this;
    if (handler.onError === null && ofModule === null) return undefined;
    const hooks = [handler.onError, ofModule].filter((hook) => hook !== null);
    return (written) => this.tell(hooks, job, written);
  }

  /** Resolves when no hook is under way. */
  async idle(): Promise<void> {
    while (this.calling.size > 0) await Promise.all(this.calling);
  }

  private tell(hooks: readonly ErrorHook[], job: Job, written: Outcome): void {
    const outcome = written.kind === 'unless-completed' ? written.otherwise : written;
    if (outcome.kind !== 'retry' && outcome.kind !== 'dead') return;
    const willRetry = outcome.kind === 'retry';
    const context = { willRetry, delayMs: willRetry ? outcome.delayMs : null };
    const call = this.call(hooks, outcome.error, job, context);
    this.calling.add(call);
    void call.then(() => this.calling.delete(call));
  }

  private async call(hooks: readonly ErrorHook[], error: unknown, job: Job, context: ErrorContext): Promise<void> {
    for (const hook of hooks) {
      try {
        await hook(error, job, context);
      } catch (failure) {
        this.hookFailed(`onError has thrown for job ${job.id} (${job.name}): ${messageOf(failure)}`);
      }
    }
  }
}
