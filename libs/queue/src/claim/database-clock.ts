/**
 * The database's clock as this process last heard it, carried on by the monotonic one; the process's own clock may be
 * wrong. Only for deciding when to ask again: what is due the database decides.
 */
export class DatabaseClock {
  /** Before anything was heard every job counts as due, so that it is asked for. */
  private offsetMicros = Infinity;

  /**
   * Something is asked of the server now that will answer its time; answers whom to tell that.
   *
   * It is read when the event loop is free, which may be much later: all that is sure is that it was the server's time at
   * some moment since the asking. What was known stays where it agrees with that.
   */
  ask(): (nowMicros: number) => void {
    const askedMicros = monotonicMicros();
    return (nowMicros) => {
      const [least, most] = [nowMicros - monotonicMicros(), nowMicros - askedMicros];
      const known = this.offsetMicros === Infinity ? least : this.offsetMicros;
      this.offsetMicros = Math.min(most, Math.max(least, known));
    };
  }

  nowMicros(): number {
    return monotonicMicros() + this.offsetMicros;
  }
}

function monotonicMicros(): number {
  return performance.now() * 1_000;
}
