/**
 * How the tests compile TypeScript, in this process and for those that they start.
 *
 * @type {import('@swc/core').Options}
 */
export const SWC_OPTIONS = {
  jsc: {
    target: 'es2023',
    parser: { syntax: 'typescript', decorators: true },
    transform: { legacyDecorator: true, decoratorMetadata: true },
    keepClassNames: true,
  },
  module: { type: 'es6' },
};
