import type { DataSource } from 'typeorm';

/** Connections of the pool that transactions of runs leave free: a handler may need another one than its own. */
const LEFT_FREE = 2;

/** pg-pool's own default. */
const DEFAULT_POOL_SIZE = 10;

/** How many connections the application's pool has at most. */
export function poolSizeOf(dataSource: DataSource): number {
  const { master } = dataSource.driver as unknown as { master?: { options?: { max?: number } } };
  return master?.options?.max ?? DEFAULT_POOL_SIZE;
}

/** How many transactions of runs may be open in this pool at once; below 1 there can be none. */
export function maxTransactionsOf(dataSource: DataSource): number {
  return poolSizeOf(dataSource) - LEFT_FREE;
}

/**
 * Who may open a transaction for a run: no more at once than leaves connections of the pool free for what handlers do
 * beside it, whichever queue of the application they belong to. Were all connections taken by runs that each wait for one
 * more, none would ever get it.
 */
export class PoolShare {
  private open = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(private readonly limit: () => number) {}

  /** Waits for its turn; the answer is called when the transaction has ended. */
  async enter(): Promise<() => void> {
    if (this.open >= Math.max(1, this.limit())) await new Promise<void>((resolve) => this.waiting.push(resolve));
    else this.open += 1;
    let entered = true;
    return () => {
      if (entered) this.leave();
      entered = false;
    };
  }

  private leave(): void {
    const next = this.waiting.shift();
    if (next === undefined) this.open -= 1;
    else next();
  }
}

const shares = new WeakMap<DataSource, PoolShare>();

/** The one of this pool. */
export function poolShareOf(dataSource: DataSource): PoolShare {
  let share = shares.get(dataSource);
  if (share === undefined) shares.set(dataSource, (share = new PoolShare(() => maxTransactionsOf(dataSource))));
  return share;
}
