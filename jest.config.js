import { SWC_OPTIONS } from './test/swc-options.mjs';

/** @type {import('jest').Config} */
export default {
  testEnvironment: 'node',
  globalSetup: '<rootDir>/test/global-setup.mjs',
  globalTeardown: '<rootDir>/test/global-teardown.mjs',
  testSequencer: '<rootDir>/test/longest-first.cjs',
  testMatch: [
    '<rootDir>/libs/**/*.spec.ts',
    '<rootDir>/apps/**/*.spec.ts',
    '<rootDir>/test/**/*.spec.ts',
    '<rootDir>/test/**/*.e2e-spec.ts',
  ],
  // long enough for a slow, busy machine: only a test that hangs meets it
  testTimeout: 180_000,
  // many tests wait more than they compute, so that two would leave two cores idle half of the time
  maxWorkers: 3,
  extensionsToTreatAsEsm: ['.ts'],
  modulePathIgnorePatterns: ['<rootDir>/dist/', '<rootDir>/.data/'],
  moduleNameMapper: {
    '^nestmq$': '<rootDir>/libs/queue/src/index.ts',
    '^nestmq/migrations$': '<rootDir>/migrations/index.ts',
    // sources import './x.js', as nodenext demands; the file on disk is './x.ts'
    '^(\\.{1,2}/.*)\\.js$': '$1',
  },
  transform: {
    '^.+\\.ts$': ['@swc/jest', SWC_OPTIONS],
  },
  collectCoverageFrom: ['libs/*/src/**/*.ts'],
  coverageProvider: 'v8',
};
