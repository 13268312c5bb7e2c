import { describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { listenOptionsOf } from './connection-options.js';

describe('listenOptionsOf', () => {
  const pooled = { host: 'pooler', port: 6_432, user: 'app', password: 'secret', database: 'app', ssl: { ca: 'ours' } };

  it('is the options of the other connections where no URL is given', () => {
    expect(listenOptionsOf(pooled, null)).toBe(pooled);
  });

  it('goes where the URL says, and keeps what the URL does not say', () => {
    const client = new pg.Client(listenOptionsOf(pooled, 'postgres://listener:other@db.internal:5433/app'));
    expect(client).toMatchObject({ host: 'db.internal', port: 5_433, user: 'listener', password: 'other' });
    expect(client).toHaveProperty('connectionParameters.ssl', { ca: 'ours' });
  });
});
