/** Waiting for what is going to be true, on a machine that may be busy. */
import { vi } from 'vitest'

export const waitFor = <T>(check: () => T | Promise<T>): Promise<T> =>
  vi.waitFor(check, { timeout: 20_000, interval: 20 })
