import { defineStatement } from './statement.js';

/** Drops leases of which every job has been settled. Index `lease_pkey`. */
export const endLeases = defineStatement<{ runner: string; leases: readonly number[] }, never>({
  name: 'end_leases_v1',
  text: (schema) => `DELETE FROM ${schema}.lease WHERE runner_id = $1 AND number = ANY($2::integer[])`,
  values: ({ runner, leases }) => [runner, leases],
  row: () => {
    throw new Error('end_leases answers no rows');
  },
});
