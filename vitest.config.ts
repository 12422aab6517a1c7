/** One Postgres for the run, a database for each file, two files at a time. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global_setup.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // A shared machine may stall for a moment. What fails twice is broken, and vitest says what was tried again.
    retry: 1,
  },
})
