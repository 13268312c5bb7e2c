import type { Random } from './random.js';

/** What a run is to do. `die`: it kills its own process. `lapse`: it gives its lease an end, which may come first. */
export type Deed = 'return' | 'lapse' | 'throw' | 'reject' | 'complete' | 'roll back' | 'complete and throw' | 'die';

/** Payload of a job of the harness. */
export interface Task {
  /** The call of spawn that it is from, and its place there. */
  readonly call: string;
  readonly index: number;
  /** What its runs do, one after another; the last one stands for all later ones. */
  readonly deeds: readonly Deed[];
  /** How long a run takes, milliseconds. */
  readonly ms: number;
}

const DEEDS: Readonly<Record<Deed, number>> = {
  return: 44,
  lapse: 6,
  complete: 25,
  throw: 12,
  'roll back': 6,
  'complete and throw': 5,
  reject: 2,
  die: 0,
};

/** Most jobs are short, some outlast a heartbeat, few a lease. */
const LENGTHS: Readonly<Record<string, number>> = { '0': 60, '5': 25, '30': 12, '300': 2.7, '1500': 0.3 };

/** @param deadly share of the jobs that kill their process */
export function randomTask(random: Random, call: string, index: number, deadly: number): Task {
  if (random.chance(deadly)) return { call, index, deeds: ['die'], ms: 0 };
  const ms = Number(random.pick(LENGTHS));
  return { call, index, deeds: [random.pick(DEEDS), random.pick(DEEDS), random.pick(DEEDS)], ms };
}
