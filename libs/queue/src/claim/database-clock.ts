/**
 * The database's clock as this process last heard it, carried on by the monotonic one. Only for deciding when to ask
 * again: what is due the database decides.
 */
export class DatabaseClock {
  private offsetMicros = Date.now() * 1_000 - monotonicMicros();

  heard(nowMicros: number): void {
    this.offsetMicros = nowMicros - monotonicMicros();
  }

  nowMicros(): number {
    return monotonicMicros() + this.offsetMicros;
  }
}

function monotonicMicros(): number {
  return performance.now() * 1_000;
}
