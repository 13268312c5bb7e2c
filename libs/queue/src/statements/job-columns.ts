/** Of the unordered jobs: stands in the feed, as the indexes `job_feed` and `job_key_feed` have it. */
export const inFeed = 'NOT suspect AND position IS NULL AND held_until IS NULL';
