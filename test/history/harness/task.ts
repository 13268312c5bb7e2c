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

type Shares<Name extends string> = Readonly<Record<Name, number>>;

const DEEDS: Shares<Deed> = {
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
const LENGTHS: Shares<string> = { '0': 60, '5': 25, '30': 12, '300': 2.7, '1500': 0.3 };

/** One run in a hundred ends otherwise than well. */
const SMOOTH_DEEDS: Shares<Deed> = { ...DEEDS, return: 3_500, complete: 100 };
const SMOOTH_LENGTHS: Shares<string> = { '0': 1_990, '5': 5, '30': 3, '300': 2 };

export interface TaskShares {
  /** Share of the jobs that kill their process. */
  readonly deadly: number;
  readonly smooth: boolean;
}

export function randomTask(random: Random, call: string, index: number, { deadly, smooth }: TaskShares): Task {
  if (random.chance(deadly)) return { call, index, deeds: ['die'], ms: 0 };
  const [shares, lengths] = smooth ? [SMOOTH_DEEDS, SMOOTH_LENGTHS] : [DEEDS, LENGTHS];
  const deed = (): Deed => random.pick(shares);
  return { call, index, deeds: [deed(), deed(), deed()], ms: Number(random.pick(lengths)) };
}
