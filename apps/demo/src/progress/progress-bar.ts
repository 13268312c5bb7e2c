import { styleText } from 'node:util';
import type { FileProgress, ImportProgress } from './progress.js';

const WIDTH = 20;
const numbers = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** Records of all files, and how many of them are done by what the jobs tell; a rejected one is done, too. */
export function countDone(files: readonly FileProgress[]): { done: number; total: number } {
  return {
    done: files.reduce((sum, { percent, total }) => sum + Math.round((percent / 100) * total), 0),
    total: files.reduce((sum, { total }) => sum + total, 0),
  };
}

/**
 * One line: the bar, the share, the count, the rate, the time left, and the share of each file.
 *
 * @param perSecond `null`: not known yet
 */
export function progressBar({ files, jobs }: ImportProgress, perSecond: number | null): string {
  const { done, total } = countDone(files);
  const share = total === 0 ? 1 : done / total;
  const filled = Math.floor(share * WIDTH);
  const bar = styleText('cyan', '█'.repeat(filled)) + '░'.repeat(WIDTH - filled);
  const count = `${numbers.format(done)} of ${numbers.format(total)} records`;
  const shares = files.map(({ file, percent }) => `${file} ${Math.floor(percent)} %`).join(', ');
  const parts = [`${bar} ${percentOf(share)}`, count, ...ending(total - done, perSecond, jobs.left), shares];
  return parts.join('  ').trimEnd();
}

const percentOf = (share: number): string => `${Math.floor(share * 100)} %`.padStart(5);

function ending(recordsLeft: number, perSecond: number | null, jobsLeft: number): string[] {
  if (recordsLeft === 0) return [`${numbers.format(jobsLeft)} jobs left`];
  if (perSecond === null) return [];
  if (perSecond < 1) return ['waiting: jobs of a killed process come back when its lease has ended'];
  return [`${numbers.format(perSecond)}/s`, `${duration(Math.ceil(recordsLeft / perSecond))} left`];
}

/** Where the files will go on. */
export function positions(files: readonly FileProgress[]): string {
  const left = files.filter(({ checkpoint, total }) => checkpoint < total);
  if (left.length === 0) return 'all files are written';
  return left.map(({ file, checkpoint }) => `${file} from record ${numbers.format(checkpoint)}`).join(', ');
}

function duration(seconds: number): string {
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
