import { afterEach } from '@jest/globals';
import { Module, type INestApplicationContext, type LoggerService, type ModuleMetadata } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { DataSource, type DataSourceOptions } from 'typeorm';

/** An application as `NestFactory` makes it, with what it has logged. */
export interface Booted {
  readonly app: INestApplicationContext;
  readonly logged: readonly string[];
  readonly close: () => Promise<void>;
}

const dataSources = new Set<DataSource>();
const open = new Set<Booted>();

afterEach(async () => {
  const left = [...open];
  await Promise.all(left.map((booted) => booted.close()));
  await Promise.all(
    [...dataSources].filter(({ isInitialized }) => isInitialized).map((dataSource) => dataSource.destroy()),
  );
  dataSources.clear();
  if (left.length > 0) throw new Error(`${left.length} application(s) were left open. Close them in the test.`);
});

/** A DataSource that the test gives to the queue by value; ended after the test. */
export async function connect(url: string, options: Partial<DataSourceOptions> = {}): Promise<DataSource> {
  const dataSource = new DataSource({ type: 'postgres', url, ...(options as object) });
  dataSources.add(dataSource);
  return dataSource.initialize();
}

/** Boots an application that its caller closes. A failed boot rejects with what Nest was told. */
export async function boot(metadata: ModuleMetadata): Promise<Booted> {
  const logged: string[] = [];
  @Module(metadata)
  class AppModule {}
  const app = await NestFactory.createApplicationContext(AppModule, { logger: recordTo(logged), abortOnError: false });
  const booted: Booted = {
    app,
    logged,
    close: async () => {
      if (open.delete(booted)) await app.close();
    },
  };
  open.add(booted);
  return booted;
}

/** What a boot that must not succeed rejects with. */
export async function failedBoot(metadata: ModuleMetadata): Promise<Error> {
  let booted: Booted;
  try {
    booted = await boot(metadata);
  } catch (error) {
    return error as Error;
  }
  await booted.close();
  throw new Error('The application has booted, and should not have.');
}

function recordTo(lines: string[]): LoggerService {
  const record =
    (level: string) =>
    (message: unknown): void =>
      void lines.push(`${level}: ${String(message)}`);
  return { log: record('log'), warn: record('warn'), error: record('error') };
}
