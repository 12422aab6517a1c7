/**
 * Who holds the leases that went out through this gateway, and how long consumers took. Kept in memory only, so that it costs the
 * statements nothing: what is not known here any more (settled elsewhere, too long ago) is not known, never wrong, for it is asked for
 * by the lease's token.
 */
import { monotonicMs } from '../base/index.ts'
import type { Receipt, Work } from '../model/index.ts'
import type { Taken } from './lines.ts'

/** `by`: the id of an API key, `root`, or a subscription's number with a `#` before it. */
export type Hold = { by: string; leasedAtMs: number }

/** Names one lease. A token alone does not: one statement leases for many. */
export type LeaseName = Pick<Receipt, 'queueId' | 'position' | 'token'>

export type Holds = {
  /** One receive's messages, leased for `leaseMs`. What is known already (a receive that was retried) stays as it was. */
  taken(taken: readonly Taken[], by: string, leaseMs: number): void
  /** These leases were ended by whoever held them; or, not `done`, given back before anybody worked on them. */
  ended(leases: readonly LeaseName[], done: boolean): void
  find(lease: LeaseName): Hold | null
}

/** One receive. */
type Batch = Hold & {
  queueId: number
  positions: number[]
  left: number
  /** The last time that something of it was settled. */
  seenMs: number
  counted: boolean
}

/** Leases. Measured: 245 bytes each when every receive takes one; 0.1 µs a message in batches of a hundred, 0.5 µs alone. */
const standardMost = 50_000

export function createHolds(
  worked: (queueId: number, work: Work) => void,
  { most = standardMost, nowMs = monotonicMs } = {},
): Holds {
  /** By token, in the order of leasing. */
  const batches = new Map<number, Batch[]>()
  let held = 0

  const isOf = (batch: Batch, { queueId, position }: LeaseName): boolean =>
    batch.queueId === queueId && batch.positions.includes(position)

  /** `sure`: the lease is one of the token's, as only who holds it can know. */
  function batchOf(lease: LeaseName, sure: boolean): Batch | undefined {
    const all = batches.get(lease.token)
    return sure && all?.length === 1 ? all[0] : all?.find((batch) => isOf(batch, lease))
  }

  function forget(token: number): void {
    for (const batch of batches.get(token) ?? []) held -= batch.positions.length
    batches.delete(token)
  }

  return {
    taken(taken, by, leaseMs) {
      const [first] = taken
      if (!first) return
      const { queue_id: queueId, position, leased_until_ms: endsMs } = first.row
      if (batchOf({ queueId, position, token: first.token }, false)) return
      const batch: Batch = {
        by,
        leasedAtMs: endsMs - leaseMs,
        queueId,
        positions: taken.map(({ row }) => row.position),
        left: taken.length,
        seenMs: nowMs(),
        counted: false,
      }
      const others = batches.get(first.token)
      if (others) others.push(batch)
      else batches.set(first.token, [batch])
      held += taken.length
      for (const token of batches.keys()) {
        if (held <= most) break
        forget(token)
      }
    },
    ended(leases, done) {
      const atMs = nowMs()
      for (const lease of leases) {
        const batch = batchOf(lease, true)
        if (!batch) continue
        batch.left--
        if (done) {
          // Its messages count at once and its time as it passes: what is settled through another gateway is not missed.
          const brought = batch.counted ? 0 : batch.positions.length
          worked(batch.queueId, {
            receives: batch.counted ? 0 : 1,
            received: brought,
            busyMs: atMs - batch.seenMs,
          })
          batch.counted = true
          batch.seenMs = atMs
        }
        if (batch.left === 0 && batches.get(lease.token)?.every(({ left }) => left <= 0)) forget(lease.token)
      }
    },
    find(lease) {
      const batch = batchOf(lease, false)
      return batch ? { by: batch.by, leasedAtMs: batch.leasedAtMs } : null
    },
  }
}
