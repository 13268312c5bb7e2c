import { describe, expect, it } from '@jest/globals';
import { Gatherer } from './gatherer.js';

/** Doubles numbers when it is let, and remembers what came together. */
function doubler() {
  const rounds: (readonly number[])[] = [];
  const open: (() => void)[] = [];
  const gatherer = new Gatherer<number, number>(async (numbers) => {
    rounds.push(numbers);
    await new Promise<void>((resolve) => void open.push(resolve));
    if (numbers.includes(13)) throw new Error('13');
    return numbers.map((number) => 2 * number);
  });
  return { gatherer, rounds, open };
}

const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

describe('Gatherer', () => {
  it('answers calls of one turn together, and those that come meanwhile by the next round', async () => {
    const { gatherer, rounds, open } = doubler();
    const first = [gatherer.ask(1), gatherer.ask(2)];
    await turn();
    const second = [gatherer.ask(3), gatherer.ask(4)];
    open[0]!();
    expect(await Promise.all(first)).toEqual([2, 4]);
    await turn();
    open[1]!();
    expect(await Promise.all(second)).toEqual([6, 8]);
    expect(rounds).toEqual([
      [1, 2],
      [3, 4],
    ]);
  });

  it('throws to those whom the work was for, and goes on', async () => {
    const { gatherer, open } = doubler();
    const ended = Promise.allSettled([gatherer.ask(13), gatherer.ask(1)]);
    await turn();
    const next = gatherer.ask(5);
    open[0]!();
    expect((await ended).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    await turn();
    open[1]!();
    expect(await next).toBe(10);
  });
});
