import { connect } from '../servers/postgres.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';
import { sustainOnce } from './sustained.js';

const READERS = 4;
const ROWS = 500_000;

const REPORT = 'SELECT n % 100 AS part, count(*), avg(n), max(id) FROM business GROUP BY 1 ORDER BY 2';

export const readers: Workload = {
  name: 'readers',
  description: `the sustained load while ${READERS} connections aggregate a table of ${ROWS} rows of the application, one report after another`,
  async run(bench) {
    const { settings } = bench;
    const stages = await openStages(bench, { only: ({ server, group, tuned }) => server === 'postgres' && (group !== 'peer' || tuned) }); // prettier-ignore
    for (const { database } of stages)
      await database!.admin.query(
        `INSERT INTO business (n) SELECT n FROM generate_series(1, ${Math.min(ROWS, settings.jobs ?? ROWS)}) AS n`,
      );
    await takeTurns(
      bench,
      stages.map((stage) => ({
        system: stage.entry.name,
        name: `${READERS} readers`,
        run: (measured) =>
          whileRead(stage, () =>
            sustainOnce(stage, {
              seconds: measured ? (settings.seconds ?? 10) : 1,
              maxJobs: settings.jobs ?? Infinity,
            }),
          ),
      })),
    );
    await endStages(stages);
  },
};

async function whileRead<T>({ database }: Stage, work: () => Promise<T>): Promise<T> {
  const clients = await Promise.all(Array.from({ length: READERS }, () => connect(database!.url)));
  const reader = { over: false };
  const reading = clients.map(async (client) => {
    while (!reader.over) await client.query(REPORT);
    await client.end();
  });
  try {
    return await work();
  } finally {
    reader.over = true;
    await Promise.all(reading);
  }
}
