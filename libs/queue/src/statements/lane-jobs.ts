import type { ClaimedJob } from '../job/job.js';
import { answeredColumns, claimedJob, type LeaseName } from './claim-jobs.js';

/** The leased jobs of lanes as a claim tells of them beside their rows: lists in one order, `null` where there are none. */
export type LaneJobLists = readonly [ids: string | null, seqs: string | null, lasts: string | null];

/** The first row of an answer, which tells of `{@link LaneJobLists}` among other things; those of the jobs follow. */
export const toldFirst = (news: string): string => `${answeredColumns.map(() => 'NULL').join(', ')}, ${news}`;

/** Lists for the first row, of the columns `ids`, `given_seqs` and `lasts`. */
export const LANE_JOB_LISTS = ['ids', 'given_seqs', 'lasts'].map((list) => `array_to_string(${list}, ',')`);

/**
 * The rows of the jobs, read all at once by their places in the table, in whatever order these come: to look each up by
 * itself takes much longer.
 *
 * @param places a query of one list
 */
export const rowsAt = (schema: string, places: string): string => `
  SELECT ${answeredColumns.join(', ')}, NULL
  FROM ${schema}.job
  WHERE job.ctid = ANY ((${places})::tid[])`;

/** The jobs of those rows in the order of the lists, with their numbers, and which are the last of their lanes. */
export function laneJobs(rows: readonly unknown[][], lists: LaneJobLists, lease: LeaseName): ClaimedJob[] {
  const [ids = [], seqs = [], lasts = []] = lists.map((list) => list?.split(',') ?? []);
  const byId = new Map(rows.map((columns) => [columns[0], columns]));
  return ids.map((id, index) =>
    claimedJob(byId.get(id)!, lease, { suspect: false, seq: Number(seqs[index]), closesLane: lasts[index] === 't' }),
  );
}
