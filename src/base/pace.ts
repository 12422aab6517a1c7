/** Even spacing: so many in so long, one after the other, over any stretch of time. */

export type Pace = {
  /** Milliseconds until the next may go; 0: now. */
  waitMs(nowMs: number): number
  /** How many may go within so many milliseconds. */
  within(nowMs: number, ms: number): number
  /** One goes. */
  take(nowMs: number): void
}

/** What a late timer may make up for, so that many a second are not lost to timers of a millisecond. */
const slackMs = 20

/**
 * `count` in `perMs`, the first one interval after `lastMs`, at which the last one went: whoever goes on where another left off cannot
 * exceed the rate.
 * The generic cell rate algorithm (ITU-T I.371) with hardly any burst.
 */
export function pace(count: number, perMs: number, lastMs: number): Pace {
  const intervalMs = perMs / count
  let nextMs = lastMs + intervalMs
  const dueMs = (now: number): number => Math.max(nextMs, now - slackMs)
  return {
    waitMs: (now) => Math.max(0, nextMs - now),
    within: (now, ms) => Math.max(0, Math.floor((now + ms - dueMs(now)) / intervalMs) + 1),
    take(now) {
      nextMs = dueMs(now) + intervalMs
    },
  }
}
