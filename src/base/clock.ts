/**
 * The only place that reads this machine's clock, sets timers or draws random numbers, so that the rest can be
 * tested with a clock and a random source of its own. Postgres's clock decides what is due; this one only measures
 * durations and wakes sleepers.
 */
import { randomBytes } from 'node:crypto'

export type Timer = { cancel(): void }

/** Wall clock, milliseconds since 1970. For logs and headers, never for deciding that a message is due. */
export const wallMs = (): number => Date.now()

/** Monotonic clock in milliseconds, for durations. */
export const monotonicMs = (): number => performance.now()

/** Runs `action` once after `ms` milliseconds. Does not keep the process alive. */
export function after(ms: number, action: () => void): Timer {
  const handle = setTimeout(action, ms)
  handle.unref()
  return { cancel: () => clearTimeout(handle) }
}

/** Runs `action` after the I/O events of this turn, so that what arrived together is seen together. */
export const soon = (action: () => void): void => void setImmediate(action)

let reading: Promise<void> | undefined
/** Resolves when the I/O events have been handled that were there by now: a whole turn of the event loop lies between. */
export function eventsRead(): Promise<void> {
  reading ??= new Promise((resolve) => {
    setImmediate(() => {
      reading = undefined
      setImmediate(resolve)
    })
  })
  return reading
}

/** Resolves after `ms` milliseconds, or at once when `signal` aborts. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve()
    const done = () => {
      clearTimeout(handle)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const handle = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}

/** Uniform in [0, 1). */
export const random = (): number => Math.random()

let pool = Buffer.alloc(0)
let used = 0

/** An unguessable whole number in [1, 2^53), exact in a double. */
export function randomToken(): number {
  if (used + 7 > pool.length) {
    pool = randomBytes(3584)
    used = 0
  }
  const low = pool.readUInt32LE(used)
  const high = pool.readUIntLE(used + 4, 3) & 0x1fffff
  used += 7
  return high * 0x1_0000_0000 + low || 1
}
