const { default: Sequencer } = require('@jest/test-sequencer');

/** Those that take longest. Begun last, one of them would be waited for alone. */
const LONGEST = [
  'bench',
  'demo',
  'history',
  'batches-crashes',
  'lanes-many',
  'races',
  'lanes-processes',
  'lanes-crashes',
  'transactional-crashes',
  'cancel-processes',
  'faults-processes',
];

/** Begins with the longest tests, on a fresh clone too, where jest remembers of no earlier run how long each took. */
module.exports = class LongestFirst extends Sequencer {
  /**
   * @override
   * @param {Parameters<Sequencer['sort']>[0]} tests
   */
  async sort(tests) {
    const place = ({ path = '' }) => LONGEST.findIndex((name) => path.endsWith(`/test/${name}.e2e-spec.ts`)) + 1;
    const longest = tests.filter((test) => place(test) > 0).toSorted((a, b) => place(a) - place(b));
    return [...longest, ...(await super.sort(tests.filter((test) => place(test) === 0)))];
  }
};
