/**
 * The database's clock as this process last heard it, carried on by the monotonic one; the process's own clock may be
 * wrong. Only for deciding when to ask again: what is due the database decides.
 */
export class DatabaseClock {
  /** Before anything was heard every job counts as due, so that it is asked for. */
  private offsetMicros = Infinity;

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
