/** Storing new messages: one statement for all senders of all queues that gathered while the last one ran. */
import type { NewMessage } from '../model/index.ts'
import { type Database, numbers, numbersFrom, startsOf, texts } from './client.ts'
import { fence } from './fence.ts'

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
  /** On a lifo queue positions count down. */
  descending: boolean
  /** The queue has one order for each key. */
  keyed: boolean
}

/** The place up to which a key is known to be done; 0: nothing is known. */
export type DoneUpTo = (queueId: number, key: string) => number

/** Where a ready message that goes before a handed-over one could lie: a lane and its mark. */
export type Probe = { queueId: number; lane: number; mark: number }

/** `missing`: no such queue, or (for `send`) a bounded one, (for `sendBounded`) none. */
export type SendResult =
  /** `waiting`: behind others of its key; it has to be moved up when they are done. */
  | { status: 'stored'; id: number; dueMs: number | null; handed: boolean; waiting: boolean }
  | { status: 'duplicate'; id: number }
  | { status: 'full' }
  | { status: 'missing' }

export type SendAnswer = { results: SendResult[]; nowMs: number }

/**
 * The queue's row is locked for key share, so a queue that is being deleted is either still there when the send commits
 * (and then is not empty) or answers `missing`. Two sends never wait for each other, except over the same dedup id, and
 * those are taken in one order everywhere. Served by the primary keys of `queues` and `dedup`.
 */
const unboundedQueues = `
  select o.slot, k.* from unnest($1::int[]) with ordinality o(id, slot) left join lateral (
    select q.id, q."order" = 'lifo' as lifo, q."order" = 'keyed' as keyed, q.fair, q.delay_ms, q.ttl_ms, q.dedup_window_ms,
      q.paused or q.max_leased is not null as closed, null::boolean[] as taken
    from postern.queues q where q.id = o.id and q.max_messages is null and q.max_bytes is null for key share) k on true`

/** One bounded queue: `admit` locks its row, so sends to it pass one at a time. */
const boundedQueue = `
  select 1 as slot, q.id, q."order" = 'lifo' as lifo, q."order" = 'keyed' as keyed, q.fair, q.delay_ms, q.ttl_ms, q.dedup_window_ms,
    q.paused or q.max_leased is not null as closed, t.taken
  from (select postern.admit(($1::int[])[1], $24::bigint[], $25::text[], $26::int[]) as taken) t
  join postern.queues q on q.id = ($1::int[])[1] and t.taken is not null`

/**
 * A message is handed over (stored already leased) only when the queue may lease and, in this statement's snapshot, no
 * ready message lies before it. The result is arrays, in the order asked: one row is cheaper than a thousand.
 */
function statement(name: string, queues: string, keysFrom: number | null): string {
  const keyed = keysFrom !== null
  const keyArrays = keyed ? [0, 1].map((at) => `, $${keysFrom + at}::int[]`).join('') : ''
  return `/* ${name} */
with s as materialized (${queues}),${keyed ? openKeys(keysFrom + 2) : ''}
a as materialized (
  select array_agg(coalesce(s.id, 0) order by s.slot) as id, array_agg(coalesce(s.lifo, false) order by s.slot) as lifo,
    array_agg(coalesce(s.keyed, false) order by s.slot) as keyed, array_agg(coalesce(s.fair, false) order by s.slot) as fair,
    array_agg(coalesce(s.delay_ms, 0) order by s.slot) as delay, array_agg(coalesce(s.ttl_ms, 0) order by s.slot) as ttl,
    array_agg(coalesce(s.dedup_window_ms, 0) order by s.slot) as dedup_window,
    array_agg(coalesce(s.closed, true) or exists (
      select 1 from unnest($19::int[], $20::smallint[], $21::bigint[]) p(slot, lane, mark) cross join lateral (
        select 1 from postern.messages m where m.queue_id = s.id and m.lane = p.lane and m.position > p.mark and m.lease_token = 0
        limit 1) x where p.slot = s.slot) order by s.slot) as closed,
    (select b.taken from s b where b.slot = 1) as taken
  from s),
n as materialized (
  select i.*, ${keyed ? 'i.key is not null and a.keyed[i.slot]' : 'false'} as keyed, ${keyed ? 'i.key is not null and a.fair[i.slot]' : 'false'} as fair,
    ${keyed ? 'coalesce(i.nth <= g.room[i.nth_key], false)' : 'false'} as open, coalesce(a.id[i.slot], 0) as queue_id, nextval('postern.message_position') as id, a.lifo[i.slot] as lifo, a.closed[i.slot] as closed,
    coalesce(a.taken[i.ord], true) and a.id[i.slot] > 0 as taken,
    coalesce(nullif(i.ttl_ms, -1), a.ttl[i.slot]) as lifetime_ms,
    case when i.deliver_at_ms >= 0 then to_timestamp(i.deliver_at_ms / 1000.0)
      else now() + coalesce(nullif(i.delay_ms, -1), a.delay[i.slot]) * interval '1 ms' end as due_at
  from unnest($2::int[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[],
    $10::int[], $11::int[], $13::int[], $17::int[], $22::int[]${keyArrays})
    with ordinality i(slot, lane, delay_ms, deliver_at_ms, ttl_ms, content_type, key, headers, body_from, body_bytes, dedup, hand_ms, hand_fence${keyed ? ', nth_key, nth' : ''}, ord)
  cross join a${keyed ? ' cross join g' : ''}),
f as materialized (
  insert into postern.dedup as d (queue_id, dedup_id, message_id, expires_at)
  select a.id[x.slot], x.dedup_id, n.id[x.first], now() + case when n.taken[x.first] then a.dedup_window[x.slot] else 0 end * interval '1 ms'
  from unnest($14::int[], $15::text[], $16::int[]) x(slot, dedup_id, first) cross join a
  cross join (select array_agg(id order by ord) as id, array_agg(taken order by ord) as taken from n) n
  on conflict (queue_id, dedup_id) do update set
    message_id = case when d.expires_at > now() then d.message_id else excluded.message_id end,
    expires_at = case when d.expires_at > now() then d.expires_at else excluded.expires_at end
  returning message_id, expires_at > now() as live),
w as materialized (
  select n.*, (n.keyed or n.fair and n.due_at <= now()) and not (n.open and n.due_at <= now()) as chained, case when n.lifo then -n.id else n.id end as position, case when f.live[n.dedup] then f.id[n.dedup] else n.id end as first_id,
    n.due_at <= now() as ready, n.hand_ms > 0 and (n.open or not n.keyed) and not n.fair and n.due_at <= now() and not n.closed and ${fence('n.hand_fence', '$23::text')} as handed
  from n cross join (select array_agg(message_id) as id, array_agg(live) as live from f) f),
m as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body, chain,
    lease_token, leased_until, attempts)
  select queue_id, lane, position, id, now(), now() + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb,
    substring($12::bytea from body_from for body_bytes), case when keyed or fair then id end, case when handed then $18::bigint else 0 end,
    case when handed then now() + hand_ms * interval '1 ms' else '-infinity' end, handed::int
  from w where taken and ready and first_id = id and not chained),
l as (
  insert into postern.leases (expires_at, token, queue_id, lane, positions)
  select now() + hand_ms * interval '1 ms', $18::bigint, queue_id, lane, array_agg(position)
  from w where taken and handed and first_id = id group by queue_id, lane, hand_ms),
d as (
  insert into postern.scheduled (due_at, queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body)
  select due_at, queue_id, lane, position, id, now(), due_at + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb,
    substring($12::bytea from body_from for body_bytes)
  from w where taken and not ready and first_id = id and not chained)${keyed ? behind : ''}
select array_agg(first_id order by ord)::text as ids,
  array_agg(case when queue_id = 0 then 3 when not taken then 2 when first_id <> id then 1 when handed then 4 when chained then 5 else 0 end order by ord)::text as states,
  case when bool_or(not ready) then array_agg(case when ready then 0 else date_part('epoch', due_at) * 1000 end order by ord)::text end as due,
  date_part('epoch', now()) * 1000 as now_ms
from w`
}

/**
 * The distinct keys, and how many messages of each need not wait behind others. Locks them before positions are drawn: those of one key
 * follow the order of commits.
 */
const openKeys = (from: number): string => `
g as materialized (
  select postern.open_keys(array_agg(coalesce(s.id, 0) order by p.ord), array_agg(p.key order by p.ord), array_agg(p.done order by p.ord)) as room
  from unnest($${from}::int[], $${from + 1}::text[], $${from + 2}::bigint[]) with ordinality p(slot, key, done, ord)
  left join s on s.slot = p.slot and (s.keyed or s.fair)),`

const behind = `,
v as (
  insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, content_type, headers, body)
  select queue_id, key, id, id, due_at, lane, now(), due_at + lifetime_ms * interval '1 ms', content_type, headers::jsonb,
    substring($12::bytea from body_from for body_bytes)
  from w where taken and first_id = id and chained)`

const sendText = statement('send', unboundedQueues, null)
const sendKeyedText = statement('send to keyed queues', unboundedQueues, 24)
const sendBoundedText = statement('send to a bounded queue', boundedQueue, null)
const sendBoundedKeyedText = statement('send to a bounded keyed queue', boundedQueue, 27)

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
  const [row] = await db.hot<Row>(doneUpTo ? sendKeyedText : sendText, [
    ...parameters(items, probes, token, gateway),
    ...(doneUpTo ? keyParameters(items, doneUpTo) : []),
  ])
  return answer(row, items.length)
}

/** The same for one queue with max_messages or max_bytes; what does not fit is `full`. */
export async function sendBounded(
  db: Database,
  items: readonly SendItem[],
  doneUpTo: DoneUpTo | null,
): Promise<SendAnswer> {
  const [row] = await db.hot<Row>(doneUpTo ? sendBoundedKeyedText : sendBoundedText, [
    ...parameters(items, [], 0, ''),
    numbers(items.map((item) => item.message.body.length)),
    texts(items.map((item) => item.message.dedupId)),
    numbers(items.map((item) => item.group)),
    ...(doneUpTo ? keyParameters(items, doneUpTo) : []),
  ])
  return answer(row, items.length)
}

/** Of the queues in a statement, in order, and where each has its place, from 1. */
function slotsOf(items: readonly SendItem[]): { queueIds: number[]; slotOf(queueId: number): number } {
  const queueIds = [...new Set(items.map((item) => item.queueId))].sort((a, b) => a - b)
  const slots = new Map(queueIds.map((id, at) => [id, at + 1]))
  return { queueIds, slotOf: (queueId) => slots.get(queueId) ?? 0 }
}

/** For each message the place of its key among the distinct ones (from 1; 0: none), and which of its key it is; then the distinct keys. */
function keyParameters(items: readonly SendItem[], doneUpTo: DoneUpTo) {
  const { slotOf } = slotsOf(items)
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
  return [
    numbers(places.map((place) => place.at)),
    numbers(places.map((place) => place.nth)),
    numbers(distinct.map((each) => each.slot)),
    texts(distinct.map((each) => each.key)),
    numbers(distinct.map((each) => each.done)),
  ]
}

function parameters(items: readonly SendItem[], probes: readonly Probe[], token: number, gateway: string) {
  const { queueIds, slotOf } = slotsOf(items)
  const { dedup, entries } = dedupEntries(items, slotOf)
  const offsets = startsOf(items.map((item) => item.message.body.length))
  const of = (read: (message: NewMessage) => number): string => numbers(items.map((item) => read(item.message)))
  return [
    numbers(queueIds),
    numbers(items.map((item) => slotOf(item.queueId))),
    numbers(items.map((item) => item.lane)),
    of((message) => message.delayMs ?? -1),
    of((message) => message.deliverAtMs ?? -1),
    of((message) => message.ttlMs ?? -1),
    texts(items.map((item) => item.message.contentType)),
    texts(items.map((item) => item.message.key)),
    texts(items.map((item) => (item.message.headers === null ? null : JSON.stringify(item.message.headers)))),
    numbers(offsets),
    of((message) => message.body.length),
    items.length === 1 && items[0] ? items[0].message.body : Buffer.concat(items.map((item) => item.message.body)),
    numbers(dedup),
    numbers(entries.map((entry) => entry.slot)),
    texts(entries.map((entry) => entry.dedupId)),
    numbers(entries.map((entry) => entry.first)),
    numbers(items.map((item) => item.handMs)),
    token,
    numbers(probes.map((probe) => slotOf(probe.queueId))),
    numbers(probes.map((probe) => probe.lane)),
    numbers(probes.map((probe) => probe.mark)),
    numbers(items.map((item) => item.handFence)),
    gateway,
  ]
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
