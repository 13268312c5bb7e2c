interface Sample {
  readonly atMs: number;
  readonly done: number;
}

/** Records a second over the last few seconds: an import that goes on after a kill does not count what others did. */
export class RateMeter {
  private readonly samples: Sample[] = [];

  constructor(private readonly windowMs = 5_000) {}

  add(sample: Sample): void {
    this.samples.push(sample);
    while (this.samples.length > 2 && this.samples[0]!.atMs < sample.atMs - this.windowMs) this.samples.shift();
  }

  /** `null` as long as there is nothing to compare. */
  get perSecond(): number | null {
    const [first] = this.samples;
    const last = this.samples.at(-1);
    if (first === undefined || last === undefined || last.atMs === first.atMs) return null;
    return ((last.done - first.done) / (last.atMs - first.atMs)) * 1_000;
  }
}
