import { randomUUID } from 'node:crypto';
import type { Logger } from '@nestjs/common';
import pg from 'pg';
import type { ClientConfig } from 'pg';
import { messageOf } from '../job/errors.js';
import { RetryDelay } from '../job/retry-delay.js';
import { run, type SqlClient } from '../statements/statement.js';
import { begin, commit } from '../statements/transaction.js';
import {
  listen,
  notify,
  notifyChannelOf,
  parseWakeUp,
  probeMessage,
  unlisten,
  type WakeUp,
} from '../statements/wake-up.js';
import { endClient } from './end-client.js';
import { pgQuery } from './pg-query.js';
import { asQueueError } from './sqlstate.js';

export interface ListenerSettings {
  readonly options: ClientConfig;
  readonly schema: string;
  readonly namedStatements: boolean;
}

export interface ListenerEvents {
  /** The connection is there (again): what was sent in the meantime has to be looked for. */
  connected(): void;
  wakeUp(wakeUp: WakeUp): void;
  /** `true` when notifications were seen to arrive, `false` when they no longer do. */
  listening(listening: boolean): void;
}

/** How often it is tried whether notifications still arrive, and how long one may take. */
const PROBE_EVERY_MS = 30_000;
const PROBE_TIMEOUT_MS = 5_000;

/** When it is tried again where nothing was to be heard. */
const PROBE_AGAIN_MS = 500;

/**
 * The connection that LISTENs. It makes sure that notifications really arrive: behind a pooler in transaction mode
 * LISTEN is accepted and nothing ever comes, and a half-open connection looks alive. What it does not hear polling
 * finds; the polls and the upkeep go through it too, since it has little else to do.
 */
export class Listener {
  private client: pg.Client | null = null;
  private stopped = false;
  /** `null` until it was tried. */
  private listening: boolean | null = null;
  private readonly delay = new RetryDelay({ minMs: 200, maxMs: 15_000 });
  private readonly abort = new AbortController();
  private probe: { readonly token: string; readonly heard: () => void } | null = null;
  private timer: NodeJS.Timeout | undefined;
  private paused = false;
  private loop: Promise<void> | null = null;

  constructor(
    private readonly settings: ListenerSettings,
    private readonly events: ListenerEvents,
    private readonly logger: Logger,
  ) {}

  start(): void {
    this.loop ??= this.connectUntilStopped();
  }

  get connected(): boolean {
    return this.client !== null;
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.abort.abort();
    clearTimeout(this.timer);
    const { client } = this;
    this.client = null;
    if (client) await endClient(client);
    await this.loop;
  }

  /** Whether notifications were seen to arrive. */
  get hears(): boolean {
    return this.listening === true;
  }

  /** Does not listen, until it is told to again. A connection that is made meanwhile listens. */
  listen(listening: boolean): void {
    this.paused = !listening;
    const { client } = this;
    const say = listening ? listen : unlisten;
    client
      ?.query(say(this.settings.schema))
      .catch((error: unknown) => breakOff(client, `Listening failed: ${messageOf(error)}`));
  }

  /** Runs a statement of the upkeep in its own READ COMMITTED transaction; refused while there is no connection. */
  async transaction<T>(work: (client: SqlClient) => Promise<T>, start = begin): Promise<T> {
    const { client } = this;
    if (client === null)
      throw asQueueError(Object.assign(new Error('The listening connection is down.'), { code: 'ECONNRESET' }));
    try {
      const [, result] = await Promise.all([client.query(start), work(this.sqlClient(client)), client.query(commit)]);
      return result;
    } catch (error) {
      throw asQueueError(error);
    }
  }

  private sqlClient(client: pg.Client): SqlClient {
    const { schema, namedStatements } = this.settings;
    return {
      schema,
      namedStatements,
      query: (query) => client.query<unknown[]>(pgQuery(query)),
    };
  }

  private async connectUntilStopped(): Promise<void> {
    while (!this.stopped) {
      try {
        await this.listenUntilLost();
      } catch (error) {
        if (!this.stopped) this.logger.warn(`Listening failed, polling until it works again: ${messageOf(error)}`);
      }
      this.setListening(false);
      if (!this.stopped) await this.delay.wait(this.abort.signal);
    }
  }

  private async listenUntilLost(): Promise<void> {
    const client = new pg.Client({
      ...this.settings.options,
      application_name: 'nestmq listen',
      pipeline: true,
      query_timeout: 30_000,
    });
    const lost = new Promise<Error | undefined>((resolve) => {
      client.on('error', resolve);
      client.on('end', () => resolve(undefined));
    });
    client.on('notification', ({ payload }) => this.receive(payload ?? ''));
    try {
      await client.connect();
      if (this.stopped) return;
      await client.query(listen(this.settings.schema));
      this.client = client;
      this.paused = false;
      this.events.connected();
      this.scheduleProbe(client, 0);
      const error = await lost;
      if (error !== undefined) throw error;
    } finally {
      clearTimeout(this.timer);
      if (this.client === client) this.client = null;
      await endClient(client);
    }
  }

  private receive(payload: string): void {
    const wakeUp = parseWakeUp(payload);
    if (wakeUp === undefined) return;
    if (wakeUp.kind !== 'probe') this.events.wakeUp(wakeUp);
    else if (wakeUp.token === this.probe?.token) this.probe.heard();
  }

  private scheduleProbe(client: pg.Client, inMs: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.sendProbe(client), inMs);
  }

  /** Notifies itself. Silence with an answered statement is a pooler: poll. Silence without is a dead connection: reconnect. */
  private async sendProbe(client: pg.Client): Promise<void> {
    if (this.paused) return this.scheduleProbe(client, PROBE_AGAIN_MS);
    const token = randomUUID();
    const heard = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), PROBE_TIMEOUT_MS);
      this.abort.signal.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve(false);
      });
      this.probe = {
        token,
        heard: () => {
          clearTimeout(timer);
          resolve(true);
        },
      };
    });
    let answered = false;
    const params = { notifyChannel: notifyChannelOf(this.settings.schema), messages: [probeMessage(token)] };
    run(this.sqlClient(client), notify, params).then(
      () => (answered = true),
      () => undefined,
    );
    const arrived = await heard;
    if (this.stopped || this.client !== client) return;
    if (!arrived && !answered) {
      breakOff(client, 'The listening connection does not answer.');
      return;
    }
    if (arrived) this.delay.reset();
    else if (this.listening !== false) {
      this.logger.warn('Notifications do not arrive (a pooler in between? set `listenUrl`): polling.');
    }
    this.setListening(arrived);
    this.scheduleProbe(client, PROBE_EVERY_MS);
  }

  private setListening(listening: boolean): void {
    if (this.listening === listening) return;
    this.listening = listening;
    this.events.listening(listening);
  }
}

/** It is made anew then. */
function breakOff(client: pg.Client, reason: string): void {
  (client as unknown as { connection: { stream: { destroy(error?: Error): void } } }).connection.stream.destroy(
    new Error(reason),
  );
}
