import { forkProcess, type Child } from '../../support/fork.js';
import { pause } from '../../support/pace.js';
import { until } from '../../support/until.js';
import type { EventLog } from './log.js';
import type { Random } from './random.js';
import type { Settings } from './settings.js';

const FAULTS = { kill: 25, term: 15, 'long stop': 35, 'short stop': 25 } as const;
type Fault = keyof typeof FAULTS;

/** The runner processes: kept at their number, and made to suffer. */
export class Fleet {
  readonly faults: Partial<Record<Fault | 'died', number>> = {};
  private readonly running = new Set<Child>();
  private readonly stopped = new Set<Child>();
  private closing = false;

  constructor(
    private readonly url: string,
    private readonly settings: Settings,
    private readonly log: EventLog,
  ) {}

  async start(): Promise<void> {
    await Promise.all(Array.from({ length: this.settings.runners }, () => booted(this.startOne())));
  }

  /** Harms one process after another until it is told to stop. */
  async harm(random: Random, goesOn: () => boolean): Promise<void> {
    const resumed: Promise<void>[] = [];
    while (goesOn()) {
      await pause(random.between(200, 2_400));
      const candidates = [...this.running].filter(
        (child) => !this.stopped.has(child) && !this.expected.has(child) && child.messages.length > 0,
      );
      const victim = candidates[random.between(0, candidates.length - 1)];
      if (victim !== undefined && goesOn()) resumed.push(this.fault(victim, random.pick(FAULTS), random));
    }
    await Promise.all(resumed);
  }

  /** Ends all processes in good order, those that do not end by force. */
  async stop(): Promise<void> {
    this.closing = true;
    await Promise.all([...this.running].map((child) => this.term(child)));
  }

  /** Ends all processes at once. */
  async abandon(): Promise<void> {
    this.closing = true;
    await Promise.all([...this.running].map((child) => child.kill()));
  }

  private startOne(): Child {
    const { leaseMs, pollMs, runs, batch, smooth } = this.settings;
    const env = {
      URL: this.url,
      LEASE_MS: String(leaseMs),
      POLL_MS: String(pollMs),
      BATCH: String(batch),
      PREFETCH_MS: String(runs === 1 ? 0 : runs * (smooth ? SMOOTH_JOB_MS : JOB_MS)),
    };
    const child = forkProcess('history-runner.ts', env);
    this.running.add(child);
    child.process.once('exit', () => {
      this.running.delete(child);
      // One that cannot even boot would be started for ever.
      this.closing ||= child.process.exitCode === 1 && child.messages.length === 0;
      if (this.closing) return;
      if (!this.expected.delete(child)) this.count('died');
      this.startOne();
    });
    return child;
  }

  /** Those that end by our hand, not by a job's. */
  private readonly expected = new Set<Child>();

  private async fault(victim: Child, fault: Fault, random: Random): Promise<void> {
    this.count(fault);
    await this.log.add('fault', { kind: fault, pid: victim.pid });
    if (fault === 'kill') {
      this.expected.add(victim);
      return victim.kill();
    }
    if (fault === 'term') return this.term(victim);
    const { leaseMs } = this.settings;
    this.stopped.add(victim);
    victim.process.kill('SIGSTOP');
    await pause(fault === 'long stop' ? random.between(leaseMs, leaseMs * 4) : random.between(20, leaseMs / 2));
    await this.log.add('fault', { kind: 'continue', pid: victim.pid });
    victim.process.kill('SIGCONT');
    this.stopped.delete(victim);
  }

  private async term(child: Child): Promise<void> {
    this.expected.add(child);
    const ended = child.kill('SIGTERM');
    const inTime = until(() => !child.alive(), { what: 'a runner has shut down', timeoutMs: 20_000 });
    await Promise.race([ended, inTime.catch(() => child.kill())]);
  }

  private count(fault: Fault | 'died'): void {
    this.faults[fault] = (this.faults[fault] ?? 0) + 1;
  }
}

/** About what a job of the harness takes in its process, the long ones and the events included. */
const JOB_MS = 25;

/** Where jobs end at once, the events alone. */
const SMOOTH_JOB_MS = 5;

/** Many processes boot at once, on a machine that may have other things to do. */
const BOOT_MS = 120_000;

export const booted = (child: Child): Promise<unknown> =>
  child.message((message) => message === 'ready', 'a process of the harness has booted', BOOT_MS);
