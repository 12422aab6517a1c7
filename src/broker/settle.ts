/** Settling: acks, releases and extensions of many callers and queues leave together, a statement for each kind. */
import { batch } from '../base/index.ts'
import {
  BrokerError,
  type Observe,
  type Queue,
  type Receipt,
  type receiptCodec,
  type SettleAction,
  type Settled,
  type SettleOutcome,
} from '../model/index.ts'
import type { Database, FreedKey, MovedRow, Release } from '../store/index.ts'
import * as store from '../store/index.ts'
import { gathering } from './gathering.ts'
import type { Queues } from './queues.ts'
import type { SettleOptions } from './types.ts'

type Options = {
  db: Database
  queues: Queues
  codec(): ReturnType<typeof receiptCodec>
  moved(rows: readonly MovedRow[]): void
  /** The first messages of these keys are done. */
  elect(keys: readonly FreedKey[]): void
  /** A lease of this queue has ended with its message done. */
  settled(queue: Queue, count: number): void
  observe: Observe
  /** Callers have ended these leases; not `done`: they gave back what they had not begun. */
  ended(leases: readonly Receipt[], done: boolean): void
}

export type Settler = {
  settle(actions: readonly SettleAction[], options: SettleOptions): Promise<Settled[]>
  /** Ends leases without a caller: given back, or buried. */
  release(items: readonly Release[]): Promise<void>
}

const weighList = (items: readonly unknown[]): number => items.length
/** Reasons may be a thousand characters long. */
const weighReleases = (items: readonly Release[]): number =>
  items.reduce((sum, item) => sum + 1 + (item.error?.length ?? 0) / 256, 0)
const byPlace = (a: Receipt, b: Receipt): number => a.queueId - b.queueId || a.lane - b.lane || a.position - b.position

export function createSettler({ db, queues, codec, moved, elect, settled, ended, observe }: Options): Settler {
  const gathered = (kind: 'ack' | 'release' | 'extend') => ({
    lanes: 2,
    maxWaiting: 50_000,
    maxWeight: 1000,
    weigh: weighList,
    ...gathering('The gateway has too many leases waiting to be settled.', { kind, observe }),
  })

  /** Each caller's list is answered with who was still held. */
  const ack = batch<readonly Receipt[], boolean[]>(async (lists) => {
    const { places, freed } = await store.ack(db, lists.flat())
    elect(freed)
    return lists.map((list) => list.map((receipt) => places.has(store.placeOf(receipt))))
  }, gathered('ack'))

  const release = batch<readonly Release[], (MovedRow | null)[]>(
    async (lists) => {
      const items = lists.flat().sort((a, b) => byPlace(a.receipt, b.receipt))
      const rows = await store.release(db, items)
      moved(rows)
      const fates = new Map<Release, MovedRow>()
      for (const row of rows) {
        const item = items[row.ord - 1]
        if (item) fates.set(item, row)
      }
      return lists.map((list) => list.map((item) => fates.get(item) ?? null))
    },
    { ...gathered('release'), weigh: weighReleases },
  )

  const extend = batch<readonly { receipt: Receipt; leaseMs: number }[], (number | null)[]>(async (lists) => {
    const items = lists.flat().sort((a, b) => byPlace(a.receipt, b.receipt))
    const ends = await store.extend(db, items)
    return lists.map((list) => list.map(({ receipt }) => ends.get(store.placeOf(receipt)) ?? null))
  }, gathered('extend'))

  type Work = { at: number; action: SettleAction; receipt: Receipt; queue: Queue }

  /** Sorts out what is no receipt, or not of this queue, before anything is changed. */
  async function admit(
    actions: readonly SettleAction[],
    { queue: name, may }: SettleOptions,
    results: Settled[],
  ): Promise<Work[]> {
    const work: Work[] = []
    for (const [at, action] of actions.entries()) {
      const receipt = codec().decode(action.receipt)
      // Without waiting where it can be: there may be thousands.
      const queue = receipt && (queues.known(receipt.queueId) ?? (await queues.byId(receipt.queueId)))
      if (receipt && queue && (name === null || queue.name === name)) {
        if (!may(queue.name))
          throw new BrokerError('forbidden', `This key may not receive from the queue ${queue.name}.`)
        work.push({ at, action, receipt, queue })
      } else {
        const outcome = receipt && !queue ? 'lease_lost' : 'invalid_receipt'
        results[at] = { receipt: action.receipt, outcome, leaseExpiresAt: null }
      }
    }
    return work
  }

  async function acks(work: Work[], say: (item: Work, outcome: SettleOutcome) => void): Promise<void> {
    if (work.length === 0) return
    const held = await ack(work.map((item) => item.receipt))
    const done = work.filter((_, at) => held[at] === true)
    const others = work.filter((_, at) => held[at] !== true)
    ended(
      done.map((item) => item.receipt),
      true,
    )
    const counts = new Map<Queue, number>()
    for (const item of done) {
      say(item, 'acked')
      counts.set(item.queue, (counts.get(item.queue) ?? 0) + 1)
    }
    for (const [queue, count] of counts) settled(queue, count)
    if (others.length > 0) await missed(others, say)
  }

  /** Acks that found no lease: the message is done already, or somebody else has it. */
  async function missed(work: Work[], say: (item: Work, outcome: SettleOutcome) => void): Promise<void> {
    const receipts = work.map((item) => item.receipt)
    const alive = await store.survivors(db, receipts)
    work.forEach((item, at) => {
      say(item, alive.has(at) ? 'lease_lost' : 'acked')
    })
  }

  async function releases(work: Work[], say: (item: Work, outcome: SettleOutcome) => void): Promise<void> {
    if (work.length === 0) return
    const items = work.map(({ action, receipt }) => releaseOf(action, receipt))
    const rows = await release(items)
    work.forEach((item, at) => {
      const outcome = item.action.action === 'reject' ? 'rejected' : 'nacked'
      say(item, rows[at] ? outcome : 'lease_lost')
      if (rows[at]) ended([item.receipt], item.action.action !== 'return')
    })
    // A lease that ended makes room where leases are bounded.
    for (const queue of new Set(work.map((item) => item.queue))) settled(queue, 0)
  }

  async function settle(actions: readonly SettleAction[], options: SettleOptions): Promise<Settled[]> {
    const results: Settled[] = []
    const work = await admit(actions, options, results)
    const say = (item: Work, outcome: SettleOutcome, leaseExpiresAt: Date | null = null): void => {
      results[item.at] = { receipt: item.action.receipt, outcome, leaseExpiresAt }
      if (item.action.action !== 'return') observe.settled(item.queue.id, outcome)
    }
    async function extensions(items: Work[]): Promise<void> {
      if (items.length === 0) return
      const wanted = items.map(({ action, receipt }) => ({
        receipt,
        leaseMs: action.action === 'extend' ? action.leaseMs : 0,
      }))
      const ends = await extend(wanted)
      items.forEach((item, at) => {
        const end = ends[at]
        if (end == null) say(item, 'lease_lost')
        else say(item, 'extended', new Date(end))
      })
    }
    const acked: Work[] = []
    const extended: Work[] = []
    const released: Work[] = []
    for (const item of work)
      (item.action.action === 'ack' ? acked : item.action.action === 'extend' ? extended : released).push(item)
    const releasing = releases(released, say)
    // What fails takes back what was leased after it: such a message is not done, though the same call says so.
    if (released.some(({ queue }) => queue.order === 'keyed')) await releasing
    await Promise.all([releasing, acks(acked, say), extensions(extended)])
    return results
  }

  return { settle, release: async (items) => void (await release(items)) }
}

function releaseOf(action: SettleAction, receipt: Receipt): Release {
  if (action.action === 'reject') return { receipt, kind: action.death ?? 'reject', delayMs: 0, error: action.reason }
  if (action.action === 'return') return { receipt, kind: 'return', delayMs: 0, error: null }
  const { delayMs, error } = action.action === 'nack' ? action : { delayMs: null, error: undefined }
  return { receipt, kind: 'nack', delayMs: delayMs ?? -1, error: error ?? null }
}
