import pg from 'pg';

/** Jobs that are there, of which each connection removes its share, one a transaction. */
export interface TransactionLoad {
  readonly connections: number;
  readonly perConnection: number;
  /** The jobs' ids have no gaps. */
  readonly firstId: number;
}

export interface BareResult {
  readonly perSecond: number;
}

type Transaction = (client: pg.Client, id: number) => Promise<unknown>;

const INSERT = 'INSERT INTO business (n) VALUES ($1)';

const remove = (id: number): pg.QueryConfig => ({
  name: 'remove',
  text: 'DELETE FROM nestmq.job WHERE id = $1',
  values: [id],
});

/** The least that a process of Node does for such a transaction, by pg alone: no queue, no pool, no TypeORM. */
export const BARE_LOOPS: Readonly<Record<string, Transaction>> = {
  /** As one writes it. */
  'pg, four round trips': async (client, id) => {
    await client.query('BEGIN');
    await client.query(INSERT, [id]);
    await client.query(remove(id));
    await client.query('COMMIT');
  },
  /** The fewest that there can be when the handler waits for the answer to its INSERT. */
  'pg, two round trips': async (client, id) => {
    await client.query(`BEGIN; INSERT INTO business (n) VALUES (${id})`);
    await client.query(`DELETE FROM nestmq.job WHERE id = ${id}; COMMIT`);
  },
};

export async function runBareLoop(
  url: string,
  transaction: Transaction,
  { connections, perConnection, firstId }: TransactionLoad,
): Promise<BareResult> {
  const clients = await Promise.all(
    Array.from({ length: connections }, async () => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      return client;
    }),
  );
  const startedAt = performance.now();
  await Promise.all(
    clients.map(async (client, index) => {
      const first = firstId + index * perConnection;
      for (let id = first; id < first + perConnection; id++) await transaction(client, id);
    }),
  );
  const seconds = (performance.now() - startedAt) / 1_000;
  await Promise.all(clients.map((client) => client.end()));
  return { perSecond: (connections * perConnection) / seconds };
}
