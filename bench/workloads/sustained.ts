import { startApplication } from '../application.js';
import { queueSender, rawSender } from '../bulk-sender.js';
import { CALL } from '../offer.js';
import { startSenderProcess } from '../processes/start.js';
import { createRawTables, RawRunner } from '../raw/raw-queue.js';
import type { System } from '../report.js';
import { cleanUp } from '../tables.js';
import { sourceHere, sourceThere, sustain, type Receiver, type Source } from '../sustain.js';
import { compare, type Contender, type Workload } from '../workload.js';

const MAX_WINDOW_SECONDS = 10;

export const sustained: Workload = {
  name: 'sustained',
  description: `spawnMany of ${CALL} in a loop and their work at the same time; times from the spawn's commit to the handler`,
  async run(bench) {
    const { database, settings } = bench;
    await createRawTables(database.admin);
    const app = await startApplication(database.url);
    const senderThere = await startSenderProcess('nestmq', database.url);
    const runner = await RawRunner.open(database.url);
    const rawHere = await rawSender(database.url);
    const rawThere = await startSenderProcess('raw SQL', database.url);
    const contender = (system: System, name: string, source: Source, receiver: Receiver): Contender => ({
      system,
      name,
      run: async (seconds) => {
        await cleanUp(database);
        return sustain(database, termsOf(seconds, settings.jobs), source, { system, receiver });
      },
    });
    await compare(bench, { amount: settings.seconds ?? 10, warmUp: 2 }, [
      contender('nestmq', 'one process', sourceHere(queueSender(app).sendMany), app.letters),
      contender('raw SQL', 'one process', sourceHere(rawHere.sendMany), runner),
      contender('nestmq', 'two processes', sourceThere(senderThere), app.letters),
      contender('raw SQL', 'two processes', sourceThere(rawThere), runner),
    ]);
    await Promise.all([app.close(), senderThere.close(), rawHere.close(), rawThere.close(), runner.close()]);
  },
};

export function termsOf(
  seconds: number,
  maxJobs: number | null,
): { seconds: number; maxJobs: number; windowSeconds: number } {
  return { seconds, maxJobs: maxJobs ?? Infinity, windowSeconds: Math.min(MAX_WINDOW_SECONDS, seconds / 2) };
}
