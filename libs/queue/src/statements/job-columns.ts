/** Of the unordered jobs: stands in the feed, as the indexes `job_feed` and `job_key_feed` have it. */
export const inFeed = 'NOT suspect AND position IS NULL AND held_until IS NULL';

/** Of the ordered jobs: has never started and may be met, as the index `job_arrival` has it. */
export const inArrivals = 'position IS NOT NULL AND seq IS NULL AND NOT suspect AND held_until IS NULL';

/** Not a reservation that was given up and whose row waits for a runner to remove it, as those of ordered jobs do. */
export const notReleased = `held_until IS DISTINCT FROM '-infinity'`;

/** How long a cancelled job is kept where nothing else is said. */
export const KEEP_CANCELLED_MS = 7 * 86_400_000;
