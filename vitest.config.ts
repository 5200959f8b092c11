import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['./test/support/install.ts'],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // Worker processes are the load; two test files at a time are what two cores bear.
    maxWorkers: 2,
    reporters: ['default', './test/summary.ts'],
  },
});
