/** Samples of fewer jobs say more about chance than about speed… */
const MIN_SAMPLE_JOBS = 16;

/** …but when so few end in so long a time, that is the speed. */
const MAX_SAMPLE_MS = 50;

/** Fewer jobs than that do not tell how long one takes… */
const MIN_KNOWN_JOBS = 8;

/** …and more of them are forgotten by and by; as many as run at once may be held up together. */
const USUAL_OF_JOBS = 128;

/**
 * Jobs of which three in four take less than so long are tiny: a process has a slot for whatever it comes to. Not the mean,
 * since where processes share a processor one job in ten waits for its turn, a hundred times as long as it runs…
 */
const TINY = { ms: 0.5, share: 3 / 4 };

/** …and are so until only half of them take less than this, so that runners of the same jobs agree: of those that run at once each takes the longer. */
const STILL_TINY = { ms: 2, share: 1 / 2 };

/** A job counts as no more than so many usual ones: one that met a hiccup of the process says nothing about the next. */
const MAX_TIMES_USUAL = 4;

/**
 * How fast this process runs jobs while it has any: the measure for how many to hold ahead of the slots, so that fast
 * handlers never wait for a claim and slow ones hold no job that another process could run.
 */
export class RateMeter {
  private busySince: number | null = null;
  private ended = 0;
  private totalMs = 0;
  private jobsPerMs = 0;
  private jobMs = Infinity;
  private known = 0;
  /** What a job took of late, rests or not. */
  private usualMs = 0;
  /** How many of them took less than what is asked of tiny ones. */
  private shortShare = 0;
  private areTiny = false;

  /** @param slowMs what takes longer has nothing ahead of it */
  constructor(
    private readonly prefetchMs: number,
    private readonly slowMs: number,
  ) {}

  /** A job starts. */
  begin(now: number): void {
    this.busySince ??= now;
  }

  /** A job has ended, after so long. */
  end(durationMs: number): void {
    this.ended += 1;
    this.totalMs += durationMs;
    this.known += 1;
    const countedMs = this.known === 1 ? durationMs : Math.min(durationMs, MAX_TIMES_USUAL * this.usualMs + 0.1);
    const weight = 1 / Math.min(this.known, USUAL_OF_JOBS);
    this.usualMs += (countedMs - this.usualMs) * weight;
    const asked = this.areTiny ? STILL_TINY : TINY;
    this.shortShare += (Number(durationMs < asked.ms) - this.shortShare) * weight;
    this.areTiny = this.known >= USUAL_OF_JOBS && this.shortShare > asked.share;
  }

  /** Nothing is left to run: what was measured says nothing about what comes next. */
  idle(): void {
    this.busySince = null;
    this.ended = 0;
    this.totalMs = 0;
    this.jobsPerMs = 0;
    this.jobMs = Infinity;
  }

  /** Jobs to hold ahead of the slots: what starts within the prefetch, none until a rate is measured, none of slow jobs. */
  ahead(now: number): number {
    this.sample(now);
    return this.jobMs > this.slowMs ? 0 : Math.floor(this.jobsPerMs * this.prefetchMs);
  }

  /**
   * Jobs that one lane runs in that time, one after another. A rest says nothing against it: a lane alone rests after
   * each of its runs.
   */
  inTurn(): number {
    return this.known < MIN_KNOWN_JOBS ? 1 : Math.max(1, Math.floor(this.prefetchMs / this.usualMs));
  }

  /** Whether jobs take next to no time: not before many are known. */
  get tiny(): boolean {
    return this.areTiny;
  }

  private sample(now: number): void {
    if (this.busySince === null) return;
    const sampleMs = now - this.busySince;
    // Runs that began together end together: only a window as long as a job tells how many end in it.
    const jobMs = this.totalMs / Math.max(1, this.ended);
    if (sampleMs < MAX_SAMPLE_MS && (this.ended < MIN_SAMPLE_JOBS || sampleMs < jobMs)) return;
    const rate = this.ended / Math.max(0.1, sampleMs);
    this.jobsPerMs = this.jobsPerMs === 0 ? rate : this.jobsPerMs * 0.7 + rate * 0.3;
    this.jobMs = this.ended === 0 ? Infinity : this.totalMs / this.ended;
    this.busySince = now;
    this.ended = 0;
    this.totalMs = 0;
  }
}
