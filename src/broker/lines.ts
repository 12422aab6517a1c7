/** Who waits for which queue, first come first served. A receiver takes its place before it looks, so no ring is lost. */
import { after, type Timer } from '../base/index.ts'
import type { LeaseClaim, LeasedRow } from '../store/index.ts'

/** A lease as the receivers are given it, with what is needed to take it back. */
export type Taken = { row: LeasedRow; token: number }

export type Waiter = {
  queueId: number
  max: number
  /** On a keyed queue: at most so many of one key, consecutive ones; null: the queue has no such order. */
  perKey: number | null
  leaseMs: number
  /** The subscription it receives for; 0: nobody in particular. */
  fence: number
  /** It may be retried: it leases alone, and only if its key is its own. `token`: that of its last lease. */
  claim: LeaseClaim | null
  /** The ring of its line that it has heard: it looks once for each. */
  heard: number
  /** Has not looked since it came: it must, before it may be told that there is nothing. */
  fresh: boolean
  /** Part of a statement under way, which will say what it got. */
  busy: boolean
  /** Its time is over: the next answer is the last. */
  due: boolean
  done(taken: Taken[]): void
  fail(error: unknown): void
}

/** `rings` counts how often something may have become ready. */
export type Line = { queueId: number; waiters: Set<Waiter>; rings: number }

export type Lines = {
  /** `over` runs when the time to wait is over or the caller has gone. */
  join(waiter: Waiter, waitMs: number, signal: AbortSignal, over: () => void): void
  leave(waiter: Waiter): void
  of(queueId: number): Line | undefined
  all(): IterableIterator<Line>
  /** How many wait. */
  size(): number
}

export function createLines(): Lines {
  const lines = new Map<number, Line>()
  const leaving = new Map<Waiter, () => void>()

  function leave(waiter: Waiter): void {
    leaving.get(waiter)?.()
    leaving.delete(waiter)
    const line = lines.get(waiter.queueId)
    line?.waiters.delete(waiter)
    if (line?.waiters.size === 0) lines.delete(waiter.queueId)
  }

  function join(waiter: Waiter, waitMs: number, signal: AbortSignal, over: () => void): void {
    let line = lines.get(waiter.queueId)
    if (!line) {
      line = { queueId: waiter.queueId, waiters: new Set(), rings: 0 }
      lines.set(waiter.queueId, line)
    }
    line.waiters.add(waiter)
    waiter.due = waitMs <= 0
    const timer: Timer | undefined = waitMs > 0 ? after(waitMs, end) : undefined
    function end(): void {
      waiter.due = true
      over()
    }
    signal.addEventListener('abort', end, { once: true })
    leaving.set(waiter, () => {
      timer?.cancel()
      signal.removeEventListener('abort', end)
    })
  }

  return { join, leave, of: (queueId) => lines.get(queueId), all: () => lines.values(), size: () => leaving.size }
}
