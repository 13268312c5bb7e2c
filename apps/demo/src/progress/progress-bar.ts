import { styleText } from 'node:util';
import type { ImportProgress } from './progress.js';

const WIDTH = 30;
const numbers = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/**
 * One line: the bar, the share, the count, the rate and the time left.
 *
 * @param perSecond `null`: not known yet
 */
export function progressBar({ places, rejected, total, jobs }: ImportProgress, perSecond: number | null): string {
  const done = places + rejected;
  const share = total === 0 ? 1 : done / total;
  const filled = Math.floor(share * WIDTH);
  const bar = styleText('cyan', '█'.repeat(filled)) + '░'.repeat(WIDTH - filled);
  const count = `${numbers.format(done)} of ${numbers.format(total)} records`;
  const percent = `${Math.floor(share * 100)} %`.padStart(5);
  return `${bar} ${percent}  ${count}  ${ending(total - done, perSecond, jobs.left)}`.trimEnd();
}

function ending(recordsLeft: number, perSecond: number | null, jobsLeft: number): string {
  if (recordsLeft === 0) return `${numbers.format(jobsLeft)} jobs left`;
  if (perSecond === null) return '';
  if (perSecond < 1) return 'waiting: jobs of a killed process come back when its lease has ended';
  return `${numbers.format(perSecond)}/s  ${duration(Math.ceil(recordsLeft / perSecond))} left`;
}

function duration(seconds: number): string {
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
