/**
 * Who holds the leases that went out through this gateway, and how long consumers took. Kept in memory only, so that it costs the
 * statements nothing: what is not known here any more is not known, never wrong, for it is asked for by the lease's token. What was
 * settled through other gateways is found out by looking at the oldest now and then.
 */
import { monotonicMs } from '../base/index.ts'
import type { Receipt, Work } from '../model/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Taken } from './lines.ts'

/** `by`: the id of an API key, `root`, or a subscription's number with a `#` before it. */
export type Hold = { by: string; leasedAtMs: number }

/** Names one lease. A token alone does not: one statement leases for many. */
export type LeaseName = Pick<Receipt, 'queueId' | 'lane' | 'position' | 'token'>

export type Holds = {
  /** One receive's messages, leased for `leaseMs`. What is known already (a receive that was retried) stays as it was. */
  taken(taken: readonly Taken[], by: string, leaseMs: number): void
  /** These leases were ended by whoever held them; or, not `done`, without work that could be measured here. */
  ended(leases: readonly LeaseName[], done: boolean): void
  find(lease: LeaseName): Hold | null
  /** Up to some `count` of the oldest, of which nothing was heard for a while. The next call gives others. */
  doubtful(count: number): LeaseName[]
}

/** One receive, and the places of what is still leased of it. */
type Batch = Hold & {
  queueId: number
  places: { lane: number; position: number }[]
  received: number
  /** The last time that something of it was settled. */
  seenMs: number
  counted: boolean
}

/** Leases. Measured: 285 bytes each when every receive takes one, and 0.2 to 0.6 µs of processor for each from receive to settle. */
const standardMost = 50_000
const quietMs = 10_000

export function createHolds(
  worked: (queueId: number, work: Work) => void,
  { most = standardMost, nowMs = monotonicMs } = {},
): Holds {
  /** By token, the oldest first. */
  const batches = new Map<number, { all: Batch[]; held: number }>()
  let held = 0

  function placeOf(lease: LeaseName): { batch: Batch; at: number } | null {
    for (const batch of batches.get(lease.token)?.all ?? []) {
      if (batch.queueId !== lease.queueId) continue
      for (let at = 0; at < batch.places.length; at++) {
        const place = batch.places[at]
        if (place?.position === lease.position && place.lane === lease.lane) return { batch, at }
      }
    }
    return null
  }

  /** How many are held under the token from now on. */
  function count(token: number, change: number): number {
    const of = batches.get(token)
    if (!of) return 0
    of.held += change
    held += change
    return of.held
  }

  function forget(token: number): void {
    held -= batches.get(token)?.held ?? 0
    batches.delete(token)
  }

  /** Its messages count at once and its time as it passes: what is settled through another gateway is not missed. */
  function measure(batch: Batch, atMs: number): void {
    worked(batch.queueId, {
      receives: batch.counted ? 0 : 1,
      received: batch.counted ? 0 : batch.received,
      busyMs: atMs - batch.seenMs,
    })
    batch.counted = true
    batch.seenMs = atMs
  }

  return {
    taken(taken, by, leaseMs) {
      const [first] = taken
      if (!first) return
      const { token } = first
      const { queue_id: queueId, lane, position, leased_until_ms: endsMs } = first.row
      if (placeOf({ queueId, lane, position, token })) return
      const batch: Batch = {
        by,
        leasedAtMs: endsMs - leaseMs,
        queueId,
        places: taken.map(({ row }) => ({ lane: row.lane, position: row.position })),
        received: taken.length,
        seenMs: nowMs(),
        counted: false,
      }
      const of = batches.get(token)
      if (of) of.all.push(batch)
      else batches.set(token, { all: [batch], held: 0 })
      count(token, taken.length)
      for (const oldest of batches.keys()) {
        if (held <= most) break
        forget(oldest)
      }
    },
    ended(leases, done) {
      const atMs = nowMs()
      for (const lease of leases) {
        const found = placeOf(lease)
        if (!found) continue
        const { batch, at } = found
        if (done) measure(batch, atMs)
        batch.places.splice(at, 1)
        if (count(lease.token, -1) === 0) batches.delete(lease.token)
      }
    },
    find(lease) {
      const batch = placeOf(lease)?.batch
      return batch ? { by: batch.by, leasedAtMs: batch.leasedAtMs } : null
    },
    doubtful(count) {
      const found: LeaseName[] = []
      const beforeMs = nowMs() - quietMs
      const tokens: number[] = []
      for (const [token, { all }] of batches) {
        if (found.length >= count) break
        if (all.some(({ seenMs }) => seenMs > beforeMs)) continue
        tokens.push(token)
        for (const { queueId, places } of all) for (const place of places) found.push({ queueId, token, ...place })
      }
      for (const token of tokens) {
        const of = batches.get(token)
        batches.delete(token)
        if (of) batches.set(token, of)
      }
      return found
    },
  }
}

/** So many are looked up every few seconds, which finds what a thousand settles a second through other gateways leave behind. */
const lookedUp = 5_000

/** Forgets the oldest leases that are over. */
export async function forgetEnded(db: Database, holds: Holds): Promise<void> {
  const names = holds.doubtful(lookedUp)
  if (names.length === 0) return
  const held = await store.stillLeased(db, names)
  holds.ended(
    names.filter((_, at) => !held.has(at)),
    false,
  )
}
