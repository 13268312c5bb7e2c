import { clockMs } from './clock.js';

/** When each job ran, and how often, so that none is lost or done twice unseen. Jobs are numbered from 0. */
export class RunLog {
  private readonly counts: Uint8Array;
  /** By the shared clock; 0 for jobs that have not run. */
  readonly startedAt: Float64Array;
  private readonly lastOfKey: Map<string, number> | null;
  private outOfOrder = 0;
  private total = 0;
  private readonly waiting: { readonly count: number; readonly resolve: () => void }[] = [];

  /** @param keyOf where the jobs of one key have to start in the order of their numbers */
  constructor(
    capacity: number,
    private readonly keyOf: ((n: number) => string | null) | null = null,
  ) {
    this.counts = new Uint8Array(capacity);
    this.startedAt = new Float64Array(capacity);
    this.lastOfKey = keyOf && new Map();
  }

  get count(): number {
    return this.total;
  }

  add(n: number): void {
    this.counts[n]! += 1;
    this.startedAt[n] = clockMs();
    this.total += 1;
    if (this.keyOf !== null) this.checkOrder(n, this.keyOf(n));
    const [next] = this.waiting;
    if (next !== undefined && this.total >= next.count) this.waiting.shift()!.resolve();
  }

  /**
   * Resolves in the turn in which so many have run. Ask for growing counts.
   *
   * @throws {Error} when they have not, and no job has run for `patienceMs`
   */
  async reached(count: number, patienceMs = 60_000): Promise<void> {
    if (this.total >= count) return;
    let before = this.total;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve, reject) => {
      this.waiting.push({ count, resolve });
      timer = setInterval(() => {
        if (this.total === before)
          reject(new Error(`${this.total} of ${count} jobs have run, and no other for ${patienceMs} ms.`));
        before = this.total;
      }, patienceMs);
    }).finally(() => clearInterval(timer));
  }

  get runs(): RunCounts {
    return { counts: this.counts, outOfOrder: this.outOfOrder };
  }

  private checkOrder(n: number, key: string | null): void {
    if (key === null) return;
    if (n <= (this.lastOfKey!.get(key) ?? -1)) this.outOfOrder += 1;
    this.lastOfKey!.set(key, n);
  }
}

/** What one process has run. */
export interface RunCounts {
  /** Of each job how often. */
  readonly counts: Uint8Array;
  readonly outOfOrder: number;
}

export interface Faults {
  readonly lost: number;
  readonly doubled: number;
}

/**
 * Over all processes.
 *
 * @param sent jobs that were sent: those behind `jobs` may have run, once
 * @throws {Error} unless each of the first `jobs` ran exactly once, in order, and no other ran
 */
export function checkRuns(processes: readonly RunCounts[], jobs: number, sent = jobs): Faults {
  const { lost, doubled } = countFaults(processes, jobs, sent);
  const outOfOrder = processes.reduce((sum, runs) => sum + runs.outOfOrder, 0);
  if (lost > 0 || doubled > 0) throw new Error(`Of ${jobs} jobs ${lost} were lost and ${doubled} done twice.`);
  if (outOfOrder > 0) throw new Error(`Of ${jobs} jobs ${outOfOrder} started out of order.`);
  return { lost, doubled };
}

/** A job that nobody sent counts as done twice. */
export function countFaults(processes: readonly RunCounts[], jobs: number, sent = jobs): Faults {
  const length = Math.max(jobs, ...processes.map(({ counts }) => counts.length));
  let lost = 0;
  let doubled = 0;
  for (let n = 0; n < length; n++) {
    let runs = 0;
    for (const { counts } of processes) runs += counts[n] ?? 0;
    if (n < jobs && runs === 0) lost += 1;
    if (runs > (n < sent ? 1 : 0)) doubled += 1;
  }
  return { lost, doubled };
}
