import { beforeEach, describe, expect, it } from '@jest/globals';
import { TypeOrmModule } from '@nestjs/typeorm';
import { InvalidOptionsError, QueueModule, type HandlerOptions, type JobSpawnOptions } from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { failedBoot } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, oneByOne, payloadsOf, seqsOf, turn, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(() => tables.clear());

describe('ordered', () => {
  interface Said {
    readonly module?: boolean;
    readonly preset?: boolean;
    readonly handler?: boolean;
    readonly spawn?: boolean;
  }

  it.each<[string, Said, boolean]>([
    ['nobody says', {}, false],
    ['the module says', { module: true }, true],
    ['the preset says', { preset: true }, true],
    ['the handler says', { handler: true }, true],
    ['the preset says no over the module', { module: true, preset: false }, false],
    ['the handler says no over the preset', { preset: true, handler: false }, false],
    ['the spawn call says', { spawn: true }, true],
    ['the spawn call says no over the handler', { handler: true, spawn: false }, false],
  ])('is as %s', async (_, { module, preset, handler, spawn }, ordered) => {
    const options: HandlerOptions = {
      ...(handler !== undefined && { ordered: handler }),
      ...(preset !== undefined && { preset: { ordered: preset } }),
    };
    const defaults = module === undefined ? {} : { ordered: module };
    const app = await startApp({ ...database, queue: { runner: false, defaults }, providers: [workWith(options)] });
    const said: JobSpawnOptions = spawn === undefined ? {} : { ordered: spawn };
    await app.jobs.spawn('work', null, said);
    await app.jobs.spawnMany([{ name: 'work', payload: null, ...said }]);
    const stored = await tables.sql<{ ordered: boolean }>('SELECT position IS NOT NULL AS ordered FROM nestmq.job');
    expect(stored).toEqual([{ ordered }, { ordered }]);
    await app.close();
  });

  it('and onDead stand on the stored policy, so that a runner of another release obeys them', async () => {
    const app = await startApp({
      ...database,
      queue: { runner: false },
      providers: [laneWith({ onDead: 'block' })],
    });
    await app.jobs.spawn('work');
    const policies = `SELECT ordered, on_dead FROM nestmq.handler_policy JOIN nestmq.job ON policy_id = handler_policy.id`;
    expect(await tables.sql(policies)).toEqual([{ ordered: true, on_dead: 'block' }]);
    await app.close();
  });

  it('said by a spawn call puts jobs of an unordered handler in order, beside its other jobs', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, ({ payload }) => (payload === 'head' ? opened : undefined));
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work', 'head', { key: 'lane', ordered: true });
    await app.jobs.spawn('work', 'follower', { key: 'lane', ordered: true });
    await app.jobs.spawn('work', 'beside', { key: 'lane' });
    await until(() => app.get(Work).runs.length === 2, { what: 'head and the unordered job run' });
    expect(payloadsOf(app.get(Work))).toEqual(expect.arrayContaining(['head', 'beside']));
    open();
    await drained();
    expect(payloadsOf(app.get(Work))[2]).toBe('follower');
    expect(app.get(Work).runs.map(({ payload, seq }) => [payload, seq])).toEqual(
      expect.arrayContaining([
        ['head', 1],
        ['follower', 2],
        ['beside', null],
      ]),
    );
    await app.close();
  });

  it.each([
    ['ordered', 'yes'],
    ['ordered', 1],
    ['onDead', 'stop'],
    ['onDead', true],
  ])('%s: %p is refused at boot, naming the option', async (option, value) => {
    const error = await failedBoot({
      imports: [TypeOrmModule.forRoot({ type: 'postgres', url: database.url }), QueueModule.forRoot({ runner: false })],
      providers: [laneWith({ [option]: value })],
    });
    expect(error).toBeInstanceOf(InvalidOptionsError);
    expect(error.message).toContain(option);
  });

  it('is refused in a spawn call unless it is a boolean, before any SQL', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [laneWith()] });
    for (const ordered of ['yes', 1, null]) {
      await expect(app.jobs.spawn('work', null, { ordered: ordered as never })).rejects.toThrow(InvalidOptionsError);
    }
    expect(await tables.sql('SELECT FROM nestmq.job')).toEqual([]);
    await app.close();
  });
});

// acceptance: 7 row 7; sqlxmq #11
describe('the key of a lane', () => {
  it.each([
    ['empty', ''],
    ['of any script', 'Zürich 🚲 كتاب 東京'],
    ['of 1 KiB', 'k'.repeat(1_024)],
    ['of 1 KiB of emoji', '🚲'.repeat(256)],
    ['with quotes and escapes', `'"\\;-- $1 %_\n\t\u0001`],
  ])('may be %s', async (_, key) => {
    const Work = laneWith({}, turn);
    const app = await startApp({ ...database, queue, providers: [Work] });
    const channel = `${'c'.repeat(252)}é\u0001`;
    for (const payload of upTo(3)) await app.jobs.spawn('work', payload, { key, channel });
    await drained();
    expect(app.get(Work).steps).toEqual(oneByOne(...upTo(3)));
    expect(app.get(Work).runs.map((job) => [job.key, job.channel, job.seq])).toEqual(
      upTo(3).map((seq) => [key, channel, seq]),
    );
    expect(await tables.sql('SELECT key, greatest(last_seq, leased_seq)::int AS last FROM nestmq.lane')).toEqual([
      { key, last: 3 },
    ]);
    await app.close();
  });

  it('is compared byte by byte: case, blanks and the forms of an accent make lanes of their own', async () => {
    const keys = ['a', 'A', 'a ', ' a', '\u00e9', 'e\u0301', '1', '01', ''];
    const { opened, open } = gate();
    const Work = laneWith({}, () => opened);
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawnMany(keys.map((key) => ({ name: 'work', payload: key, key })));
    await until(() => app.get(Work).runs.length === keys.length, { what: 'all run at once' });
    expect(seqsOf(app.get(Work))).toEqual(keys.map(() => 1));
    open();
    await drained();
    await app.close();
  });

  it.each([
    ['one byte more than 1 KiB', 'k'.repeat(1_025)],
    ['8 kB', 'k'.repeat(8_192)],
    ['1 KiB in characters, more in bytes', 'é'.repeat(1_024)],
    ['with NUL', 'a\u0000b'],
    ['with half a surrogate pair', '\ud83d'],
    ['no text', 7 as never],
  ])('is refused when it is %s, nothing is changed, and the caller’s transaction goes on', async (_, key) => {
    const Work = laneWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.dataSource.transaction(async (manager) => {
      await expect(app.jobs.spawn('work', 'refused', { key, manager })).rejects.toThrow(InvalidOptionsError);
      await app.jobs.spawn('work', 'good', { key: 'lane', manager });
    });
    await expect(app.jobs.spawn('work', 'refused', { key })).rejects.toThrow(InvalidOptionsError);
    await drained();
    expect(payloadsOf(app.get(Work))).toEqual(['good']);
    await app.close();
  });
});
