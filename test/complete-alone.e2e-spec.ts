import { beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { QueueEvent } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { boot, connect } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

beforeEach(() => tables.clear());

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);
const types = (app: TestApp): string[] => app.events.map(({ type }) => type).filter((type) => type !== 'listening');

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (error: unknown) => (error as { code?: string }).code ?? error,
  );
