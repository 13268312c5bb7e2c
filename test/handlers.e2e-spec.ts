import { beforeEach, describe, expect, it } from '@jest/globals';
import { Controller, Inject, Injectable, Scope, type ModuleMetadata } from '@nestjs/common';
import { REQUEST } from '@nestjs/core';
import {
  DuplicateHandlerError,
  JobHandler,
  JobSpawner,
  Queue,
  QueueModule,
  type HandlerOptions,
  type Job,
  type QueueOptions,
} from 'nestmq';
import { boot, connect, failedBoot, type Booted } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.sql('DELETE FROM nestmq.job'));

/** What ran, as the handlers of a test tell it. */
let ran: unknown[] = [];
beforeEach(() => void (ran = []));

async function withHandlers(
  metadata: ModuleMetadata,
  work: (jobs: JobSpawner, booted: Booted) => Promise<void>,
  options: QueueOptions = {},
): Promise<void> {
  const dataSource = await connect(database.url);
  const booted = await boot({
    ...metadata,
    imports: [QueueModule.forRoot({ dataSource, pollMs: 60_000, ...options })],
  });
  try {
    await work(booted.app.get(JobSpawner), booted);
  } finally {
    await booted.close();
  }
}

/** What `until` is to wait for. */
const haveRun = (...payloads: unknown[]): Parameters<typeof until> => [
  () => payloads.every((payload) => ran.includes(payload)),
  { what: `${payloads.join(', ')} have run` },
];

const bootError = async (metadata: ModuleMetadata): Promise<Error> =>
  failedBoot({ ...metadata, imports: [QueueModule.forRoot({ dataSource: await connect(database.url) })] });

@Injectable()
class Mailer {
  readonly sign = 'mailer';

  @JobHandler('mail')
  welcome({ payload }: Job): void {
    ran.push(payload, this.sign);
  }
}

describe('handlers are found', () => {
  it('on providers, with their own `this`', () =>
    withHandlers({ providers: [Mailer] }, async (jobs) => {
      await jobs.spawn(Mailer, 'welcome', 1);
      await until(...haveRun(1, 'mailer'));
    }));

  it('on controllers', () => {
    @Controller('mail')
    class MailController {
      @JobHandler('mail')
      work({ payload }: Job): void {
        ran.push(payload);
      }
    }
    return withHandlers({ controllers: [MailController] }, async (jobs) => {
      await jobs.spawn(MailController, 'work', 1);
      await until(...haveRun(1));
    });
  });

  it('on useValue providers', () =>
    withHandlers({ providers: [{ provide: 'MAILER', useValue: new Mailer() }] }, async (jobs) => {
      await jobs.spawn(Mailer, 'welcome', 1);
      await until(...haveRun(1, 'mailer'));
    }));

  it('on useFactory providers, also of a promise', () =>
    withHandlers({ providers: [{ provide: 'MAILER', useFactory: async () => new Mailer() }] }, async (jobs) => {
      await jobs.spawn(Mailer, 'welcome', 1);
      await until(...haveRun(1, 'mailer'));
    }));

  it('once, however many aliases a provider has', () =>
    withHandlers(
      { providers: [Mailer, { provide: 'A', useExisting: Mailer }, { provide: 'B', useExisting: 'A' }] },
      async (jobs, { logged }) => {
        expect(logged.filter((line) => line.includes('is handled by Mailer.welcome'))).toHaveLength(1);
        await jobs.spawn(Mailer, 'welcome', 1);
        await until(...haveRun(1));
      },
    ));

  it('on a base class: inherited methods are the subclass’s', () => {
    abstract class Base {
      @JobHandler('inherited')
      work({ payload }: Job): void {
        ran.push(`${this.constructor.name} ${String(payload)}`);
      }
    }
    class First extends Base {}
    class Second extends Base {}
    return withHandlers({ providers: [First, Second] }, async (jobs) => {
      await jobs.spawn(First, 'work', 1);
      await jobs.spawn('Second.work', 2);
      await until(...haveRun('First 1', 'Second 2'));
    });
  });

  it('not where a subclass has overridden the method without the decorator', () => {
    class Base {
      @JobHandler('inherited')
      work(_job: Job): void {}
    }
    class Silent extends Base {
      override work(_job: Job): void {}
    }
    return withHandlers({ providers: [Silent] }, async (jobs) => {
      await expect(jobs.spawn(Silent, 'work', 1)).rejects.toMatchObject({ code: 'unknown_job' });
      await expect(jobs.spawn('Silent.work', 1)).rejects.toMatchObject({ code: 'unknown_job' });
    });
  });

  it('as the decorator of the subclass says, where it has one of its own', () => {
    class Base {
      @JobHandler('base', { priority: 1 })
      work(_job: Job): void {}
    }
    class Own extends Base {
      @JobHandler('own', { name: 'own.work' })
      override work({ payload }: Job): void {
        ran.push(payload);
      }
    }
    return withHandlers({ providers: [Own] }, async (jobs) => {
      await jobs.spawn('own.work', 1);
      await until(...haveRun(1));
    });
  });

  it('beside providers of every other kind, which do no harm', () =>
    withHandlers(
      {
        providers: [
          Mailer,
          { provide: 'NULL', useValue: null },
          { provide: 'TEXT', useValue: 'text' },
          { provide: 'BARE', useValue: Object.create(null) },
          { provide: 'FUNCTION', useValue: () => 5 },
          { provide: 'UNDEFINED', useFactory: () => undefined },
          {
            provide: 'HOSTILE',
            useValue: {
              get trap(): never {
                throw new Error('a getter was called');
              },
            },
          },
        ],
      },
      async (jobs) => {
        await jobs.spawn(Mailer, 'welcome', 1);
        await until(...haveRun(1));
      },
    ));
});

describe('a request-scoped handler', () => {
  let made = 0;
  beforeEach(() => void (made = 0));

  @Injectable({ scope: Scope.REQUEST })
  class Scoped {
    readonly number = (made += 1);

    constructor(@Inject(REQUEST) readonly request: Job) {}

    @JobHandler('scoped')
    work(job: Job): void {
      ran.push({ same: this.request === job, id: this.request.id, number: this.number });
    }
  }

  it('is made anew for every job, which it can inject as REQUEST', () =>
    withHandlers({ providers: [Scoped] }, async (jobs) => {
      const spawned = await jobs.spawnMany(Scoped, 'work', [{ payload: 1 }, { payload: 2 }, { payload: 3 }]);
      await until(() => ran.length === 3, { what: 'all have run' });
      const seen = ran as { same: boolean; id: string; number: number }[];
      expect(seen.map(({ same }) => same)).toEqual([true, true, true]);
      expect(new Set(seen.map(({ number: instance }) => instance)).size).toBe(3);
      expect(seen.map(({ id }) => id).toSorted()).toEqual(spawned.map(({ id }) => id).toSorted());
    }));

  it('may be so by what it depends on', () => {
    @Injectable()
    class Dependent {
      constructor(@Inject(Scoped) readonly scoped: Scoped) {}

      @JobHandler('dependent')
      run({ id }: Job): void {
        ran.push(this.scoped.request.id === id);
      }
    }
    return withHandlers({ providers: [Scoped, Dependent] }, async (jobs) => {
      await jobs.spawnMany(Dependent, 'run', [{ payload: 1 }, { payload: 2 }]);
      await until(() => ran.length === 2, { what: 'both have run' });
      expect(ran).toEqual([true, true]);
    });
  });
});

describe('names', () => {
  class First {
    @JobHandler('a', { name: 'same' })
    work(_job: Job): void {}
  }
  class Second {
    @JobHandler('b', { name: 'same' })
    run(_job: Job): void {}
  }

  it('that two handlers share fail the boot, naming both', async () => {
    const error = await bootError({ providers: [First, Second] });
    expect(error).toBeInstanceOf(DuplicateHandlerError);
    expect(error.message).toBe(
      'Job name "same" belongs to both First.work and Second.run. Give one of them another `name` in @JobHandler.',
    );
  });

  it('fail the boot too when two classes are called the same', async () => {
    class Other {
      @JobHandler('mail')
      welcome(_job: Job): void {}
    }
    Object.defineProperty(Other, 'name', { value: 'Mailer' });
    expect(await bootError({ providers: [Mailer, Other] })).toBeInstanceOf(DuplicateHandlerError);
  });

  it('fail the boot too when a former name is another handler’s name', async () => {
    class Renamed {
      @JobHandler('b', { formerNames: ['same'] })
      run(_job: Job): void {}
    }
    const error = await bootError({ providers: [First, Renamed] });
    expect(error).toBeInstanceOf(DuplicateHandlerError);
    expect(error.message).toContain('First.work and Renamed.run');
  });

  it('of the past still run, under the name that their jobs were sent with, and send under the new one', () => {
    class Renamed {
      @JobHandler('mail', { name: 'new', formerNames: ['old', 'older'] })
      run({ name, payload }: Job): void {
        ran.push(`${name} ${String(payload)}`);
      }
    }
    return withHandlers({ providers: [Renamed] }, async (jobs) => {
      await tables.sql(
        `INSERT INTO nestmq.job (channel, name, payload) VALUES ('mail', 'older', '1'), ('mail', 'old', '2')`,
      );
      await tables.sql(`SELECT pg_notify('nestmq_wake_up', '["survey"]')`);
      await jobs.spawn(Renamed, 'run', 3);
      await jobs.spawn('old', 4);
      await until(...haveRun('older 1', 'old 2', 'new 3', 'new 4'));
    });
  });

  it('that look minified are warned of, unless a name is given', async () => {
    class t {
      @JobHandler('mail')
      a(_job: Job): void {}
    }
    class e {
      @JobHandler('mail', { name: 'mail.send' })
      b(_job: Job): void {}
    }
    await withHandlers({ providers: [t, e, Mailer] }, async (_, { logged }) => {
      const warnings = logged.filter((line) => line.startsWith('warn:') && line.includes('minified'));
      expect(warnings).toEqual([expect.stringContaining('job handler t.a looks minified')]);
      expect(warnings[0]).toContain('Give @JobHandler a name.');
    });
  });

  it('that nobody knows are never claimed and hold nobody up, and are listed', () =>
    withHandlers({ providers: [Mailer] }, async (jobs, { app }) => {
      await tables.sql(
        `INSERT INTO nestmq.job (channel, name) SELECT 'mail', 'Ghost.work' FROM generate_series(1, 100)`,
      );
      await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('other', '__proto__'), ('other', 'toString')`);
      await tables.sql(`SELECT pg_notify('nestmq_wake_up', '["survey"]')`);
      await jobs.spawn(Mailer, 'welcome', 'marker');
      await until(...haveRun('marker'));
      await until(async () => (await tables.number('SELECT count(*) FROM nestmq.job')) === 102, {
        what: 'the marker is done',
      });
      expect(await app.get(Queue).stats()).toEqual([
        expect.objectContaining({ channel: 'mail', ready: 100, running: 0, unknownNames: ['Ghost.work'] }),
        expect.objectContaining({ channel: 'other', ready: 2, unknownNames: ['__proto__', 'toString'] }),
      ]);
      expect(await tables.number('SELECT max(attempt) + max(run) FROM nestmq.job')).toBe(0);
    }));
});

describe('options', () => {
  const stored = async (options: HandlerOptions, module: QueueOptions, spawned = {}): Promise<object> => {
    class Configured {
      @JobHandler('configured', options)
      work(_job: Job): void {}
    }
    let record: object = {};
    await withHandlers(
      { providers: [Configured] },
      async (jobs, { app }) => {
        const { id } = await jobs.spawn(Configured, 'work', 1, spawned);
        record = (await app.get(Queue).get(id))!;
      },
      { runner: false, ...module },
    );
    return record;
  };
  const preset = { retries: 2, priority: 2 };
  const defaults = { retries: 1, priority: 1 };

  // acceptance: sqlxmq, it_can_use_registry
  it.each<[string, HandlerOptions, QueueOptions, object, object]>([
    ['the library', {}, {}, {}, { maxAttempts: 5, priority: 0 }],
    ['the module over the library', {}, { defaults }, {}, { maxAttempts: 2, priority: 1 }],
    ['the preset over the module', { preset }, { defaults }, {}, { maxAttempts: 3, priority: 2 }],
    ['the decorator over the preset', { preset, retries: 3 }, { defaults }, {}, { maxAttempts: 4, priority: 2 }],
    [
      'the call over all',
      { preset, retries: 3 },
      { defaults },
      { retries: 0, priority: 9 },
      { maxAttempts: 1, priority: 9 },
    ],
    ['a preset that is a function', { preset: (of) => ({ retries: of.length }) }, {}, {}, { maxAttempts: 16 }],
    ['defaults that are a function', {}, { defaults: (of) => ({ retries: of.length }) }, {}, { maxAttempts: 16 }],
  ])('are those of %s, on the stored row', async (_, options, module, spawned, expected) => {
    expect(await stored(options, module, spawned)).toMatchObject(expected);
  });

  it('are stored once for each version of a handler, and jobs refer to them', async () => {
    await tables.sql('DELETE FROM nestmq.handler_policy');
    const options: HandlerOptions = { timeout: '30s', backoff: { type: 'fixed', base: '5s' }, retention: '1h' };
    await stored(options, {});
    await stored(options, {});
    await stored({ ...options, timeout: '31s' }, {});
    const policies = await tables.sql(
      `SELECT p.name, timeout_ms::int, retention_ms::int, p.backoff ->> 'baseMs' AS base, count(j.id)::int AS jobs
       FROM nestmq.handler_policy p LEFT JOIN nestmq.job j ON j.policy_id = p.id GROUP BY p.id ORDER BY timeout_ms`,
    );
    const common = { name: 'Configured.work', retention_ms: 3_600_000, base: '5000' };
    expect(policies).toEqual([
      { ...common, timeout_ms: 30_000, jobs: 2 },
      { ...common, timeout_ms: 31_000, jobs: 1 },
    ]);
  });
});

describe('concurrency', () => {
  /** Handlers that stay until they are let go, and count how many are in at once. */
  class Gate {
    running = 0;
    most = 0;
    done = 0;
    private readonly waiting: (() => void)[] = [];

    async pass(): Promise<void> {
      this.running += 1;
      this.most = Math.max(this.most, this.running);
      await new Promise<void>((resolve) => this.waiting.push(resolve));
      this.running -= 1;
      this.done += 1;
    }

    letGo(): void {
      for (const resolve of this.waiting.splice(0)) resolve();
    }
  }

  it('of a handler limits its runs in a process, and not those of others', async () => {
    const [limited, free] = [new Gate(), new Gate()];
    class Both {
      @JobHandler('work', { concurrency: 2 })
      limited(_job: Job): Promise<void> {
        return limited.pass();
      }

      @JobHandler('work')
      free(_job: Job): Promise<void> {
        return free.pass();
      }
    }
    await withHandlers({ providers: [Both] }, async (jobs) => {
      await jobs.spawnMany(
        Both,
        'limited',
        Array.from({ length: 10 }, () => ({ payload: 1 })),
      );
      await jobs.spawnMany(
        Both,
        'free',
        Array.from({ length: 10 }, () => ({ payload: 1 })),
      );
      await until(() => free.running === 10 && limited.running === 2, { what: 'all that may run do' });
      await until(
        () => {
          limited.letGo();
          free.letGo();
          return limited.done === 10 && free.done === 10;
        },
        { what: 'all have run' },
      );
      expect(limited.most).toBe(2);
    });
  });

  it('of the runner limits all together', async () => {
    const gate = new Gate();
    class Work {
      @JobHandler('work')
      run(_job: Job): Promise<void> {
        return gate.pass();
      }
    }
    await withHandlers(
      { providers: [Work] },
      async (jobs) => {
        await jobs.spawnMany(
          Work,
          'run',
          Array.from({ length: 20 }, () => ({ payload: 1 })),
        );
        await until(
          () => {
            if (gate.running === 3 || gate.done >= 18) gate.letGo();
            return gate.done === 20;
          },
          { what: 'all have run' },
        );
        expect(gate.most).toBe(3);
      },
      { concurrency: 3 },
    );
  });
});
