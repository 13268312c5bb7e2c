import type pg from 'pg';

/** How long a server may take to hear of it. */
const END_LIMIT_MS = 2_000;

/** Ends a connection in good order, or tears it down: over a half-open one the good order never comes to its end. */
export async function endClient(client: pg.Client): Promise<void> {
  const { stream } = (client as unknown as { connection: { stream: { destroy(): void } } }).connection;
  const timer = setTimeout(() => stream.destroy(), END_LIMIT_MS);
  try {
    await client.end();
  } catch {
    // It has ended already.
  } finally {
    clearTimeout(timer);
  }
}
