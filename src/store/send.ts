/** Storing new messages: one statement for all senders of all queues that gathered while the last one ran. */
import type { NewMessage } from '../model/index.ts'
import { type Database, jsonTexts, numbers, numbersFrom, type Parameter, startsOf, texts } from './client.ts'
import { runNamed } from './named.ts'
import { type Probe, probeArrays } from './probes.ts'
import { type SendParts, sendText } from './send_text.ts'

/** One message to store, in the order of sending. */
export type SendItem = {
  queueId: number
  lane: number
  message: NewMessage
  /** Members of one group (> 0, adjacent) are stored together or not at all. Counts on bounded queues only. */
  group: number
  /** Lease it to a waiting receiver for so many milliseconds, if it may be leased and nothing is ahead of it; 0: do not. */
  handMs: number
  /** The subscription to whose dispatcher it is handed; 0: to anybody. */
  handFence: number
  /** It may have a delay, of its own or its queue's, as far as is known. A queue that has one after all is `missing`. */
  delayed: boolean
  /** On a lifo queue positions count down. */
  descending: boolean
  /** The queue has one order for each key. */
  keyed: boolean
}

/** The place up to which a key is known to be done; 0: nothing is known. */
export type DoneUpTo = (queueId: number, key: string) => number

/** `missing`: no such queue, or (for `send`) a bounded one, (for `sendBounded`) none. */
export type SendResult =
  /** `waiting`: behind others of its key; it has to be moved up when they are done. */
  | { status: 'stored'; id: number; dueMs: number | null; handed: boolean; waiting: boolean }
  | { status: 'duplicate'; id: number }
  | { status: 'full' }
  | { status: 'missing' }

export type SendAnswer = { results: SendResult[]; nowMs: number }

type Row = { ids: string | null; states: string; due: string | null; now_ms: number }

/**
 * Stores messages of any number of queues that have no bound. `token` must be new; `gateway` is who asks. `doneUpTo` is given when the
 * queues have an order for each key (keyed) or turns (fair), and null when none of them has.
 */
export async function send(
  db: Database,
  items: readonly SendItem[],
  probes: readonly Probe[],
  token: number,
  gateway: string,
  doneUpTo: DoneUpTo | null,
): Promise<SendAnswer> {
  const hands = items.some((item) => item.handMs > 0)
  const fences = items.some((item) => item.handFence > 0)
  return await store(db, items, { bounded: false, hands, fences }, doneUpTo, (slotOf, slots) => {
    if (!hands) return {}
    const looks = probeArrays(probes, slotOf, slots)
    return {
      token: () => token,
      gateway: () => gateway,
      hand_ms: () => numbers(items.map((item) => item.handMs)),
      hand_fence: () => numbers(items.map((item) => item.handFence)),
      probe_from: () => looks.from,
      probe_to: () => looks.to,
      probe_lane: () => looks.lanes,
      probe_mark: () => looks.marks,
    }
  })
}

/** The same for one queue with max_messages or max_bytes; what does not fit is `full`. */
export async function sendBounded(
  db: Database,
  items: readonly SendItem[],
  doneUpTo: DoneUpTo | null,
): Promise<SendAnswer> {
  return await store(db, items, { bounded: true, hands: false, fences: false }, doneUpTo, () => ({
    bytes: () => numbers(items.map((item) => item.message.body.length)),
    dedup_ids: () => texts(items.map((item) => item.message.dedupId)),
    groups: () => numbers(items.map((item) => item.group)),
  }))
}

type Values = Record<string, () => Parameter>

async function store(
  db: Database,
  items: readonly SendItem[],
  kind: Pick<SendParts, 'bounded' | 'hands' | 'fences'>,
  doneUpTo: DoneUpTo | null,
  more: (slotOf: SlotOf, slots: number) => Values,
): Promise<SendAnswer> {
  const { queueIds, slotOf } = slotsOf(items)
  const parts = {
    ...kind,
    keyed: doneUpTo !== null,
    dedup: items.some((item) => item.message.dedupId !== null),
    delays: items.some((item) => item.delayed),
  }
  const [row] = await runNamed<Row>(db, sendText(parts), {
    queue_ids: () => numbers(queueIds),
    ...messageValues(items, slotOf),
    ...(parts.dedup ? dedupValues(items, slotOf) : {}),
    ...(doneUpTo ? keyValues(items, slotOf, doneUpTo) : {}),
    ...more(slotOf, queueIds.length),
  })
  return answer(row, items.length)
}

type SlotOf = (queueId: number) => number

/** Of the queues in a statement, in order, and where each has its place, from 1. */
function slotsOf(items: readonly SendItem[]): { queueIds: number[]; slotOf: SlotOf } {
  const queueIds = [...new Set(items.map((item) => item.queueId))].sort((a, b) => a - b)
  if (queueIds.length === 1) return { queueIds, slotOf: () => 1 }
  const slots = new Map(queueIds.map((id, at) => [id, at + 1]))
  return { queueIds, slotOf: (queueId) => slots.get(queueId) ?? 0 }
}

function messageValues(items: readonly SendItem[], slotOf: SlotOf): Values {
  const bodies = items.map((item) => item.message.body)
  const lengths = bodies.map((body) => body.length)
  const of = (read: (message: NewMessage) => number): string => numbers(items.map((item) => read(item.message)))
  return {
    slot: () => numbers(items.map((item) => slotOf(item.queueId))),
    lane: () => numbers(items.map((item) => item.lane)),
    ttl_ms: () => of((message) => message.ttlMs ?? -1),
    content_type: () => texts(items.map((item) => item.message.contentType)),
    key: () => texts(items.map((item) => item.message.key)),
    headers: () => jsonTexts(items.map((item) => item.message.headers)),
    body_from: () => numbers(startsOf(lengths)),
    body_bytes: () => numbers(lengths),
    body: () => (bodies.length === 1 && bodies[0] ? bodies[0] : Buffer.concat(bodies)),
    delay_ms: () => of((message) => message.delayMs ?? -1),
    deliver_at_ms: () => of((message) => message.deliverAtMs ?? -1),
  }
}

function dedupValues(items: readonly SendItem[], slotOf: SlotOf): Values {
  const { dedup, entries } = dedupEntries(items, slotOf)
  return {
    dedup: () => numbers(dedup),
    entry_slot: () => numbers(entries.map((entry) => entry.slot)),
    entry_id: () => texts(entries.map((entry) => entry.dedupId)),
    entry_first: () => numbers(entries.map((entry) => entry.first)),
  }
}

/** For each message the place of its key among the distinct ones (from 1; 0: none), and which of its key it is; then the distinct keys. */
function keyValues(items: readonly SendItem[], slotOf: SlotOf, doneUpTo: DoneUpTo): Values {
  const keys = new Map<string, { at: number; slot: number; key: string; done: number; count: number }>()
  const places = items.map(({ queueId, message: { key } }) => {
    if (key === null) return { at: 0, nth: 0 }
    const name = `${queueId} ${key}`
    const known = keys.get(name)
    const each = known ?? { at: keys.size + 1, slot: slotOf(queueId), key, done: doneUpTo(queueId, key), count: 0 }
    if (!known) keys.set(name, each)
    each.count++
    return { at: each.at, nth: each.count }
  })
  const distinct = [...keys.values()]
  return {
    nth_key: () => numbers(places.map((place) => place.at)),
    nth: () => numbers(places.map((place) => place.nth)),
    key_slot: () => numbers(distinct.map((each) => each.slot)),
    keys: () => texts(distinct.map((each) => each.key)),
    key_done: () => numbers(distinct.map((each) => each.done)),
  }
}

type DedupEntry = { slot: number; dedupId: string; first: number }

/** The distinct dedup ids in one order for all gateways, and for each message the place of its own (from 1; 0: none). */
export function dedupEntries(
  items: readonly { queueId: number; message: Pick<NewMessage, 'dedupId'> }[],
  slotOf: (queueId: number) => number,
): { dedup: number[]; entries: DedupEntry[] } {
  const seen = new Map<string, DedupEntry>()
  items.forEach(({ queueId, message: { dedupId } }, at) => {
    if (dedupId === null) return
    const name = `${slotOf(queueId)} ${dedupId}`
    if (!seen.has(name)) seen.set(name, { slot: slotOf(queueId), dedupId, first: at + 1 })
  })
  if (seen.size === 0) return { dedup: items.map(() => 0), entries: [] }
  const entries = [...seen.values()].sort((a, b) => a.slot - b.slot || (a.dedupId < b.dedupId ? -1 : 1))
  const places = new Map(entries.map((entry, at) => [`${entry.slot} ${entry.dedupId}`, at + 1]))
  const dedup = items.map(({ queueId, message: { dedupId } }) =>
    dedupId === null ? 0 : (places.get(`${slotOf(queueId)} ${dedupId}`) ?? 0),
  )
  return { dedup, entries }
}

function answer(row: Row | undefined, count: number): SendAnswer {
  // A bounded queue that is gone yields no source row, and so no aggregate.
  if (!row || row.ids === null)
    return { results: Array.from({ length: count }, () => ({ status: 'missing' as const })), nowMs: row?.now_ms ?? 0 }
  const ids = numbersFrom(row.ids)
  const due = row.due === null ? null : numbersFrom(row.due)
  const results = numbersFrom(row.states).map((state, at): SendResult => {
    const id = ids[at] ?? 0
    if (state === 3) return { status: 'missing' }
    if (state === 2) return { status: 'full' }
    if (state === 1) return { status: 'duplicate', id }
    const dueMs = due?.[at] ?? 0
    return { status: 'stored', id, dueMs: dueMs === 0 ? null : dueMs, handed: state === 4, waiting: state === 5 }
  })
  return { results, nowMs: row.now_ms }
}
