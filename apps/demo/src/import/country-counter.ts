import { Injectable } from '@nestjs/common';
import { JobHandler, type Job } from 'nestmq';
import { DataSource } from 'typeorm';
import { Country } from './country.entity.js';
import { importJob } from './import-options.js';
import { ImportStep } from './import-step.entity.js';
import { Place } from './place.entity.js';

const englishNames = new Intl.DisplayNames('en', { type: 'region' });

/** Counts a country again whenever a part of it has been written. */
@Injectable()
export class CountryCounter {
  constructor(private readonly dataSource: DataSource) {}

  /**
   * Parts of one country end in any order, and so do these jobs. Each locks the country's row before it counts, so that
   * the one that counts last sees all that was committed before it; the last part's job therefore writes the truth.
   */
  @JobHandler('import.countries', { preset: importJob })
  async count(job: Job<{ importId: number; country: string }>): Promise<void> {
    const { importId, country: code } = job.payload;
    const name = lookUpName(code, job.attempt);
    await this.dataSource.transaction(async (manager) => {
      await manager
        .createQueryBuilder()
        .insert()
        .into(Country)
        .values({ code, name, places: 0, regions: 0 })
        .orIgnore()
        .execute();
      await manager.findOneOrFail(Country, { where: { code }, lock: { mode: 'pessimistic_write' } });
      const counted = await manager
        .createQueryBuilder(Place, 'place')
        .select('count(*)::int', 'places')
        .addSelect('count(DISTINCT place.region)::int', 'regions')
        .where({ country: code })
        .getRawOne<Pick<Country, 'places' | 'regions'>>();
      await manager.update(Country, { code }, { name, ...counted });
      await manager.insert(ImportStep, { importId, jobId: job.id, name: job.name, attempt: job.attempt, places: 0 });
      await job.complete({ manager });
    });
  }
}

/** The flaky step: stands for a service that does not always answer. Fails on purpose, for some countries, at first. */
function lookUpName(code: string, attempt: number): string {
  if (attempt === 1 && code.charCodeAt(1) % 10 === 0) throw new Error(`the name service did not answer for ${code}`);
  return englishNames.of(code) ?? code;
}
