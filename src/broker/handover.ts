/** Handing over: a message sent while a receiver waits may be stored already leased to it, and is not looked for at all. */
import type { LeasedRow, Probe } from '../store/index.ts'
import type { Cluster } from './cluster.ts'
import type { Taken, Waiter } from './lines.ts'
import type { Flight, Marks } from './marks.ts'
import type { Receiver } from './receive.ts'

/** One message on its way into one queue. */
export type Handable = {
  queueId: number
  lane: number
  /** As far as is known here, it becomes ready at once. */
  immediate: boolean
  /** It has a dedup id and may be there already: nobody is reserved for it, and so for nothing that comes behind it. */
  doubtful: boolean
  /** The queue is lifo: of one statement the last comes first. */
  descending: boolean
  handMs: number
  handFence: number
}

/** A receiver that is busy until `finish`, and what is meant for it. */
type Hand<T> = { waiter: Waiter; items: T[] }
export type Hands<T> = { hands: Hand<T>[]; flights: Flight[]; probes: Probe[] }

export type HandOver = {
  /** Reserves parked receivers for messages without delay, in the order of both (a lifo queue's is the other way round), and says so in `handMs` and `handFence`. */
  reserve<T extends Handable>(items: readonly T[]): Hands<T>
  /** `rowOf` answers what was really handed; nothing sends the receiver back to its place. Before others are told of the rest. */
  finish<T>(hands: Hands<T>, token: number, rowOf: (item: T) => LeasedRow | null): void
}

export function createHandOver(receiver: Receiver, marks: Marks, cluster: Cluster): HandOver {
  return {
    reserve<T extends Handable>(items: readonly T[]) {
      const ready = new Map<number, T[]>()
      for (const item of items) {
        if (!item.immediate) continue
        const list = ready.get(item.queueId)
        if (list) list.push(item)
        else ready.set(item.queueId, [item])
      }
      const hands: Hand<T>[] = []
      const lanes = new Map<number, number>()
      for (const [queueId, list] of ready) {
        // The lane order of one statement is not its order of sending.
        if (new Set(list.map((item) => item.lane)).size > 1) continue
        const handable = firstOf(list)
        let next = 0
        for (const waiter of receiver.reserve(queueId, handable.length)) {
          const mine = handable.slice(next, next + waiter.max)
          next += mine.length
          for (const item of mine) {
            item.handMs = waiter.leaseMs
            item.handFence = waiter.fence
            lanes.set(queueId, item.lane)
          }
          hands.push({ waiter, items: mine })
        }
      }
      const flights = [...lanes].map(([queueId, lane]) => marks.hand(queueId, lane, cluster.hasPeers()))
      const probes = flights.flatMap(({ queueId, lanes }) => lanes.map((found) => ({ queueId, ...found })))
      return { hands, flights, probes }
    },
    finish({ hands, flights }, token, rowOf) {
      const all: { waiter: Waiter; taken: Taken[] }[] = hands.map(({ waiter, items }) => ({
        waiter,
        taken: items.flatMap((item) => {
          const row = rowOf(item)
          return row ? [{ row, token }] : []
        }),
      }))
      for (const flight of flights) {
        const rows = all
          .flatMap(({ taken }) => taken.map(({ row }) => row))
          .filter((row) => row.queue_id === flight.queueId)
        // What was handed shows that nothing lay before it.
        if (rows.length > 0) marks.landed(flight, rows, true)
        else marks.dropped(flight)
      }
      for (const { waiter, taken } of all) receiver.handed(waiter, taken)
    },
  }
}

/** In the order of handing out, up to the first that may not be new. */
function firstOf<T extends Handable>(list: readonly T[]): T[] {
  const ordered = list[0]?.descending ? [...list].reverse() : [...list]
  const doubtful = ordered.findIndex((item) => item.doubtful)
  return doubtful === -1 ? ordered : ordered.slice(0, doubtful)
}

/** What a lease of a message just stored looks like. */
export function leasedRow(
  item: { queueId: number; lane: number; handMs: number; message: LeasedMessage },
  id: number,
  position: number,
  nowMs: number,
): LeasedRow {
  const { message } = item
  return {
    queue_id: item.queueId,
    lane: item.lane,
    position,
    id,
    attempts: 1,
    enqueued_ms: nowMs,
    leased_until_ms: nowMs + item.handMs,
    expired: false,
    exhausted: false,
    content_type: message.contentType,
    key: message.key,
    turn: null,
    chain: null,
    follows: null,
    headers: message.headers,
    body: message.body,
    cut: false,
  }
}

type LeasedMessage = {
  contentType: string
  key: string | null
  headers: Record<string, string> | null
  body: Buffer
}
