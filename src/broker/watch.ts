/**
 * What whoever watches this gateway may ask: cheaply what it knows itself, and now and then what lies in the database. Counting costs in
 * proportion to what there is, so an answer that took long is kept for twenty times as long, and that for each gateway that counts too.
 */
import { monotonicMs } from '../base/index.ts'
import { BrokerError, type Observe, type PoolLoad, type QueueCounts } from '../model/index.ts'
import type { Counted, Database, DatabaseState, LeasedRow, MovedRow } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Cluster } from './cluster.ts'
import type { Receiver } from './receive.ts'

export type QueueState = QueueCounts & { id: number; name: string; paused: boolean; oldestReadyAgeS: number }

export type GatewayState = {
  /** Whether what other gateways announce arrives. */
  listening: boolean
  /** Other gateways that were heard lately. */
  peers: number
  pools: PoolLoad[]
  /** Receives that wait here, by queue. */
  waiting: [queueId: number, receives: number][]
}

export type Watch = {
  here(): GatewayState
  /** All queues, backlogs too, the oldest first; `ageMs`: since they were counted. Throws unavailable. */
  queues(): Promise<{ queues: QueueState[]; ageMs: number }>
  /** Throws unavailable. */
  database(): Promise<DatabaseState>
}

type Options = {
  db: Database
  counted(queueIds: readonly number[]): Promise<Map<number, Counted>>
  cluster: Pick<Cluster, 'listening' | 'peers'>
  receiver: Pick<Receiver, 'waitingByQueue'>
}

/** The oldest ones; more would be no more use in metrics. */
const mostQueues = 10_000
const queuesAtOnce = 500
const worth = 20
/** Asked every few seconds, what takes less is nothing. */
const cheapMs = 100

export function createWatch({ db, counted, cluster, receiver }: Options): Watch {
  let kept: { queues: QueueState[]; atMs: number; untilMs: number } | undefined
  let counting: Promise<void> | undefined

  async function count(): Promise<void> {
    const startMs = monotonicMs()
    const found = await store.watchedQueues(db, mostQueues)
    const queues: QueueState[] = []
    for (let from = 0; from < found.length; from += queuesAtOnce) {
      const some = found.slice(from, from + queuesAtOnce)
      const counts = await counted(some.map((queue) => queue.id))
      for (const queue of some) {
        const { ready = 0, delayed = 0, leased = 0, dead = 0, oldestReadyAgeS = 0 } = counts.get(queue.id) ?? {}
        queues.push({ ...queue, ready, delayed, leased, dead, oldestReadyAgeS })
      }
    }
    const atMs = monotonicMs()
    const costMs = atMs - startMs
    kept = { queues, atMs, untilMs: costMs < cheapMs ? atMs : atMs + worth * (1 + cluster.peers().length) * costMs }
  }

  return {
    here: () => ({
      listening: cluster.listening(),
      peers: cluster.peers().length,
      pools: db.load(),
      waiting: receiver.waitingByQueue(),
    }),
    async queues() {
      if (!kept || monotonicMs() >= kept.untilMs) {
        counting ??= count().finally(() => {
          counting = undefined
        })
        await counting
      }
      if (!kept) throw new BrokerError('unavailable', 'The queues were not counted.', { retryAfterS: 1 })
      return { queues: kept.queues, ageMs: monotonicMs() - kept.atMs }
    },
    database: () => store.databaseState(db),
  }
}

/** These were leased to somebody; those that are not to be handed out were not. */
export function observeLeased(observe: Observe, rows: readonly LeasedRow[], leaseMs: number): void {
  for (const row of rows) {
    if (row.expired || row.exhausted) continue
    observe.leased(row.queue_id, row.attempts, row.leased_until_ms - leaseMs - row.enqueued_ms)
  }
}

/** What became of messages whose lease or life has ended. */
export function observeMoved(observe: Observe, rows: readonly MovedRow[]): void {
  for (const { fate, reason, freed_queue_id: from } of rows) {
    if (fate === 'dropped') observe.dropped(from)
    else if (reason !== null) observe.died(from, reason)
  }
}
