import { defineStatement } from './statement.js';

/** Stops all claims from a channel, by any process, until it is resumed; outlasts restarts. Running jobs go on. */
export const pauseChannel = defineStatement<{ channel: string }, string>({
  name: 'pause_channel_v1',
  text: (schema) => `
  INSERT INTO ${schema}.paused_channel (channel) VALUES ($1) ON CONFLICT (channel) DO NOTHING RETURNING channel`,
  values: ({ channel }) => [channel],
  row: ([channel]) => channel as string,
});

/** Lets a paused channel be claimed from again; answers nothing when it was not paused. */
export const resumeChannel = defineStatement<{ channel: string }, string>({
  name: 'resume_channel_v1',
  text: (schema) => `DELETE FROM ${schema}.paused_channel WHERE channel = $1 RETURNING channel`,
  values: ({ channel }) => [channel],
  row: ([channel]) => channel as string,
});
