/**
 * A condition by which each row of a list finds its own in a large table, by an index on that column.
 *
 * As a plain equality it could be read the other way round: the whole index is walked, and each of its rows compared with
 * all of the list. The planner does that where it was last told that there is one row, which it is told of every table that was
 * empty or dead at the time, and goes on doing it as long as the plan is kept. An array has no order that a walk would serve.
 *
 * Beside it no condition on the table may imply that of a partial index, which could be walked instead.
 */
export const lookUp = (column: string, value: string): string => `${column} = ANY (ARRAY[${value}])`;
