import { describe, expect, it } from '@jest/globals';
import { readText } from '../../support/repository.js';
import { MUTANTS } from './mutants.js';

describe('what the mutants take out', () => {
  it.each(MUTANTS.map((mutant) => [mutant.name, mutant] as const))('stands where they look for it: %s', (_, mutant) => {
    for (const { file, find } of mutant.patches) expect(readText(file).split(find)).toHaveLength(2);
  });

  it('is shown by tests that are there', () => {
    const tests = MUTANTS.flatMap(({ proofs }) => proofs).flatMap((proof) => ('test' in proof ? [proof.test] : []));
    expect(tests.length).toBeGreaterThan(0);
    for (const [file, name] of tests) expect(readText(file)).toContain(name);
  });
});
