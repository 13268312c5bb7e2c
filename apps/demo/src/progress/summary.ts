import { styleText } from 'node:util';
import type { Country } from '../import/country.entity.js';
import type { FileProgress, ImportProgress, Rejection } from './progress.js';
import { countDone } from './progress-bar.js';

const SHOWN = 12;
const BAR_WIDTH = 24;
const numbers = new Intl.NumberFormat('en');

/** What the import has done, for reading. */
export function summary(
  progress: ImportProgress,
  countries: readonly Country[],
  rejections: readonly Rejection[],
): string {
  return ['', ...placesPerCountry(countries), '', ...rejected(rejections), ...jobs(progress, rejections), ''].join(
    '\n',
  );
}

function placesPerCountry(countries: readonly Country[]): string[] {
  const most = countries[0]?.places ?? 1;
  const shown = countries.slice(0, SHOWN).map((country) => {
    const bar = styleText(
      'cyan',
      '█'.repeat(Math.max(1, Math.round((country.places / most) * BAR_WIDTH))).padEnd(BAR_WIDTH),
    );
    return `  ${country.name.padEnd(20)} ${bar} ${column(country.places)} places in ${column(country.regions, 3)} regions`;
  });
  const others = countries.slice(SHOWN);
  const rest = `  ${`${others.length} other countries`.padEnd(21 + BAR_WIDTH)} ${column(sum(others))} places`;
  return [styleText('bold', 'Places per country'), ...shown, ...(others.length > 0 ? [rest] : [])];
}

function rejected(rejections: readonly Rejection[]): string[] {
  if (rejections.length === 0) return [];
  const shown = rejections.map(({ jobId, state, reason }) => `  job ${jobId} is ${state}: ${reason}`);
  return [styleText('bold', 'Rejected'), ...shown, ''];
}

function jobs(
  { files, counted, rejected: bad, jobs: ran, seconds, starts }: ImportProgress,
  dead: readonly Rejection[],
): string[] {
  const rows = counted.places + counted.districts + counted.regions;
  const missing = countDone(files).total - rows - bad;
  const rate = `, ${numbers.format(Math.round(rows / Math.max(seconds, 0.1)))} a second`;
  return [
    styleText('bold', 'Import'),
    ...files.map((file) => `  ${file.file.padEnd(9)} ${column(counted[file.file])} rows${runs(file)}`),
    // the time between the starts counts, so a rate would say nothing
    `  ${numbers.format(rows)} rows in ${seconds.toFixed(1)} s${starts > 1 ? `, in ${starts} starts` : rate}`,
    `  ${numbers.format(ran.completed + dead.length)} jobs run, ${ran.retried} of them retried, ${dead.length} dead`,
    ...(missing > 0 ? [styleText('red', `  ${numbers.format(missing)} records are missing: a job is dead`)] : []),
  ];
}

/** Where the runs of a file's job have begun, when there were several. */
function runs({ runsFrom }: FileProgress): string {
  if (runsFrom.length < 2) return '';
  return `, ${runsFrom.length} runs, from records ${runsFrom.map((from) => numbers.format(from)).join(', ')}`;
}

function column(count: number, width = 7): string {
  return numbers.format(count).padStart(width);
}

function sum(countries: readonly Country[]): number {
  return countries.reduce((total, { places }) => total + places, 0);
}
