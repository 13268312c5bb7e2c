import { Injectable } from '@nestjs/common';
import { JobHandler, RejectJob, type Job } from 'nestmq';
import { DataSource } from 'typeorm';
import { Country } from './country.entity.js';
import { CountryStep } from './country-step.entity.js';
import type { FileName } from './gazetteer.js';
import { importJob } from './import-options.js';

const englishNames = new Intl.DisplayNames('en', { type: 'region' });

export interface Delta {
  readonly country: string;
  readonly file: FileName;
  /** First record of the batch that it tells of. */
  readonly firstRecord: number;
  /** Rows of the country in that batch. */
  readonly rows: number;
}

/** Adds up what is written of each country. The key of these jobs is the country, so each country is a lane. */
@Injectable()
export class CountrySummaries {
  constructor(private readonly dataSource: DataSource) {}

  /**
   * Reads the summary, adds, writes it back, and takes no lock for that: in the whole fleet one job of a country runs at
   * a time, and the one before has committed. `seq` shows it: a job that came twice, too early or too late would not
   * find the number before its own.
   */
  @JobHandler('import.countries', { preset: importJob, ordered: true })
  async add(job: Job<Delta>): Promise<void> {
    const { country: code, ...step } = job.payload;
    const { attempt } = job;
    const seq = job.seq!; // ordered jobs have one
    const name = lookUpName(code, attempt);
    await this.dataSource.transaction(async (manager) => {
      const first = { code, name, places: 0, districts: 0, regions: 0, seq: seq - 1 };
      const country = (await manager.findOneBy(Country, { code })) ?? first;
      if (country.seq !== seq - 1) throw new RejectJob(`${code}: number ${seq} does not follow ${country.seq}`);
      country.seq = seq;
      country[step.file] += step.rows;
      await manager.upsert(Country, country, ['code']);
      await manager.insert(CountryStep, { ...step, country: code, seq, attempt });
      await job.complete({ manager });
    });
  }
}

/**
 * The flaky step: stands for a service that does not always answer. Fails on purpose, for some countries, at first. Their
 * lanes wait for the retry, the others go on.
 */
function lookUpName(code: string, attempt: number): string {
  if (attempt === 1 && code.charCodeAt(1) % 10 === 0) throw new Error(`the name service did not answer for ${code}`);
  return englishNames.of(code) ?? code;
}
