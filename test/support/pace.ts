import { setTimeout as sleep } from 'node:timers/promises';

/** Lets time pass: for loads and faults, which have a rhythm of their own. What a test waits for it names, by `until`. */
export const pause = (ms: number): Promise<void> => sleep(ms);
