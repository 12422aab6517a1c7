/** Token buckets: so many in so long under each name, with a burst of one second's worth. Takes the clock as an argument. */
import { LRUCache } from 'lru-cache'

export type Quota = {
  allowed: boolean
  /** How many more may come now. */
  remaining: number
  /** Until the next may come; 0: now. */
  waitMs: number
  /** Until the burst is whole again. */
  wholeMs: number
}

export type Limiter = {
  /** One more under this name, if `count` in `perMs` leaves room for it. */
  take(name: string, rate: { count: number; perMs: number }, nowMs: number): Quota
  /** One that was taken does not count. */
  give(name: string, rate: { count: number; perMs: number }): void
}

type Bucket = { tokens: number; atMs: number }
const secondMs = 1000
/** What is left of a token after a thousand sums of fractions. */
const rounding = 1e-6

/** Remembers the `mostNames` names seen last; one that is forgotten starts with a whole burst. */
export function limiter(mostNames: number): Limiter {
  const buckets = new LRUCache<string, Bucket>({ max: mostNames })

  return {
    take(name, { count, perMs }, nowMs) {
      const perToken = perMs / count
      const burst = burstOf({ count, perMs })
      const bucket = buckets.get(name) ?? { tokens: burst, atMs: nowMs }
      // A clock that stands still or jumps back refills nothing.
      const passedMs = Math.max(0, nowMs - bucket.atMs)
      const tokens = Math.min(burst, bucket.tokens + passedMs / perToken)
      const allowed = tokens >= 1 - rounding
      const left = allowed ? Math.max(0, tokens - 1) : tokens
      buckets.set(name, { tokens: left, atMs: Math.max(nowMs, bucket.atMs) })
      return {
        allowed,
        remaining: Math.floor(left + rounding),
        waitMs: Math.max(0, (1 - rounding - left) * perToken),
        wholeMs: (burst - left) * perToken,
      }
    },
    give(name, rate) {
      const bucket = buckets.get(name)
      if (bucket) bucket.tokens = Math.min(burstOf(rate), bucket.tokens + 1)
    },
  }
}

const burstOf = ({ count, perMs }: { count: number; perMs: number }): number =>
  Math.max(1, Math.floor((count * secondMs) / perMs))
