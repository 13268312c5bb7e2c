import type { HandlerPreset } from 'nestmq';

/**
 * What the jobs of an import have in common. Many retries, because a run that a kill -9 ends counts as one, and the demo
 * invites you to kill it.
 */
export const importJob: HandlerPreset = { retries: 50, backoff: '250ms', deadRetention: '7d' };
