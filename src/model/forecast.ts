/** How soon a queue is empty at the rates of the last minute, and how many consumers it takes to keep its messages young. */
import type { QueueStats } from './queue.ts'

/** What consumers were seen to do: receives of which something was settled, the messages these brought, and how long they were busy with them. */
export type Work = { receives: number; received: number; busyMs: number }

export const forecastLimits = {
  targetAgeMs: { min: 1_000, max: 86_400_000 },
} as const

/** How old a message may become in the queue, where nobody says otherwise. */
export const defaultTargetAgeMs = 60_000

/** Seconds of one consumer that a message takes, from its receive until it is settled; null while none was measured. */
export const serviceSeconds = ({ received, busyMs }: Work): number | null =>
  received > 0 ? busyMs / 1000 / received : null

/**
 * An autoscaler's figure: how many consumers take what comes in and work the backlog off within the target age. A message takes
 * `serviceSeconds` of a consumer, so that is the rate asked for times the service time (Little's law); never fewer than are busy now,
 * because whoever is scaled away in the middle of its work leaves its leases to run out. One, to have something to measure; none for an
 * empty queue; for a paused one only those that are still busy.
 */
export function desiredConsumers(
  stats: Pick<QueueStats, 'ready' | 'leased' | 'inRate'>,
  work: Work,
  { targetAgeMs, paused, maxLeased }: { targetAgeMs: number; paused: boolean; maxLeased: number | null },
): number {
  const { ready, leased, inRate } = stats
  const perReceive = work.receives > 0 ? Math.max(1, work.received / work.receives) : 1
  const busy = up(leased / perReceive)
  if (paused || (ready === 0 && inRate === 0)) return busy
  const serviceS = serviceSeconds(work)
  const wanted = serviceS === null ? 1 : up((inRate + ready / (targetAgeMs / 1000)) * serviceS)
  // More of them than may hold a lease at a time would find nothing.
  return Math.min(Math.max(1, busy, wanted), maxLeased ?? Number.MAX_SAFE_INTEGER)
}

/** Rounded up, but for the noise of arithmetic. */
const up = (value: number): number => Math.ceil(Math.round(value * 1e6) / 1e6)

/** Seconds until the queue is empty at these rates (0 when it is), or null when it does not drain. */
export function drainSeconds(ready: number, inRate: number, outRate: number): number | null {
  if (ready === 0) return 0
  return outRate > inRate ? Math.round((ready / (outRate - inRate)) * 10) / 10 : null
}
