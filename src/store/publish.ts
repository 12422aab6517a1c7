/** Publishing: all copies of all publishes that gathered while the last statement ran, in one statement. */
import { BrokerError, type NewMessage } from '../model/index.ts'
import { type Database, jsonTexts, jsonTextsIn, numbers, numbersFrom, startsOf, texts } from './client.ts'
import { fence } from './fence.ts'
import { leaseRows } from './lease_rows.ts'
import { type Probe, probeArrays, readyAmong } from './probes.ts'
import { dedupEntries } from './send.ts'

/** One copy of a published message. `handMs` > 0: lease it to a waiting receiver, if it may be and nothing is ahead of it. */
export type CopyItem = { queueId: number; handMs: number; handFence: number }

export type PublishItem = {
  topicId: number
  /**
   * Of the topic, its bindings and subscriptions when this was routed. 0: it was routed by what was there after the caller had
   * asked, so a change since then may be taken to have come later.
   */
  version: number
  routingKey: string
  lane: number
  message: NewMessage
  /** At most one for each queue. */
  copies: CopyItem[]
}

/** One stored copy, by its place in `copies`. `handed`: leased already; `waiting`: behind others of its key. */
export type StoredCopy = { copy: number; position: number; dueMs: number | null; handed: boolean; waiting: boolean }

/**
 * `stale`: the topic has changed since, or is gone. `bounded`: a copy goes to a queue with max_messages or max_bytes, so it must
 * go by `publishBounded`. A copy whose queue is gone is left out.
 */
export type PublishResult =
  | { status: 'stored'; id: number; copies: StoredCopy[] }
  | { status: 'duplicate'; id: number }
  | { status: 'stale' }
  | { status: 'bounded' }
  | { status: 'full'; queue: string }

export type PublishAnswer = { results: PublishResult[]; nowMs: number }

/** Bodies that several copies share, or that are large, are worth a row of their own (measured: README, "How it works"). */
const sharedBodyBytes = 256

/**
 * A topic is looked up by the version that the publish was routed by: the snapshot shows every change that was answered before
 * this statement began. The queues' rows are locked for key share, as in `send`; two publishes never wait for each other,
 * except over the same dedup id. A body that is logged is stored once, in `topic_log`; copies for bounded queues carry it
 * themselves, because those count bytes. Served by the primary keys of `topics`, `queues` and `dedup`.
 */
const statement = (name: string, gate: string): string => `/* ${name} */
with g as materialized (${gate}),
q as materialized (
  select o.slot, k.* from g cross join unnest($3::int[]) with ordinality o(id, slot) left join lateral (
    select q.id, q."order" = 'lifo' as lifo, q.delay_ms, q.ttl_ms, q.paused or q.max_leased is not null as closed,
      q.max_messages is not null or q.max_bytes is not null as bounded, q."order" = 'keyed' as keyed, q.fair
    from postern.queues q where q.id = o.id for key share) k on true),
j as materialized (
  select postern.lock_keys(array_agg(q.id), array_agg(i.key)) as n from unnest($10::text[], $21::int[], $22::int[]) i(key, copies_from, copies_to)
  cross join lateral unnest(($20::int[])[i.copies_from:i.copies_to]) u(slot) join q on q.slot = u.slot and (q.keyed or q.fair) where i.key is not null),
a as materialized (
  select array_agg(coalesce(q.id, 0) order by q.slot) as id, array_agg(coalesce(q.lifo, false) order by q.slot) as lifo,
    array_agg(coalesce(q.delay_ms, 0) order by q.slot) as delay, array_agg(coalesce(q.ttl_ms, 0) order by q.slot) as ttl,
    array_agg(coalesce(q.bounded, false) order by q.slot) as bounded, coalesce(bool_or(q.bounded), false) as some_bounded, array_agg(coalesce(q.keyed, false) order by q.slot) as keyed, array_agg(coalesce(q.fair, false) order by q.slot) as fair,
    array_agg(coalesce(q.closed, true) or exists (
      ${readyAmong({ queue: 'q', from: '$25', to: '$31', lanes: '$26', marks: '$27' })}) order by q.slot) as closed
  from q),
t as materialized (
  select array_agg(coalesce(k.id, 0) order by o.slot) as id, array_agg(coalesce(k.dedup_window_ms, 0) order by o.slot) as dedup_window,
    array_agg(coalesce(k.retention_ms, 0) order by o.slot) as retention
  from unnest($1::int[], $2::bigint[]) with ordinality o(id, version, slot)
  left join lateral (select * from postern.topics k where k.id = o.id and o.version in (k.version, 0) limit 1) k on true),
p as materialized (
  select i.*, nextval('postern.message_position') as id, t.id[i.topic] as topic_id, t.retention[i.topic] as retention_ms,
    t.id[i.topic] > 0 and ($30::boolean or not a.some_bounded or not exists (
      select 1 from unnest(($20::int[])[i.copies_from:i.copies_to]) s where a.bounded[s])) as taken
  from unnest($4::int[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], $10::text[], ${jsonTextsIn('$11')}, $12::int[], $13::int[],
    $15::int[], $16::text[], $21::int[], $22::int[])
    with ordinality i(topic, lane, delay_ms, deliver_at_ms, ttl_ms, content_type, key, headers, body_from, body_bytes, dedup, routing_key,
      copies_from, copies_to, ord)
  cross join a cross join t cross join j where coalesce(j.n, 0) >= 0),
f as materialized (
  insert into postern.dedup as d (queue_id, dedup_id, message_id, expires_at)
  select -t.id[x.slot], case when t.id[x.slot] > 0 then x.dedup_id else x.slot || ' ' || x.dedup_id end, n.id[x.first], now() + case when n.taken[x.first] then t.dedup_window[x.slot] else 0 end * interval '1 ms'
  from unnest($17::int[], $18::text[], $19::int[]) x(slot, dedup_id, first) cross join t
  cross join (select array_agg(id order by ord) as id, array_agg(taken order by ord) as taken from p) n
  on conflict (queue_id, dedup_id) do update set
    message_id = case when d.expires_at > now() then d.message_id else excluded.message_id end,
    expires_at = case when d.expires_at > now() then d.expires_at else excluded.expires_at end
  returning message_id, expires_at > now() as live),
w as materialized (
  select p.*, case when f.live[p.dedup] then f.id[p.dedup] else p.id end as first_id,
    p.retention_ms > 0 or p.copies_to > p.copies_from and p.body_bytes >= ${sharedBodyBytes} as logged
  from p cross join (select array_agg(message_id) as id, array_agg(live) as live from f) f),
h as (
  insert into postern.topic_log (id, topic_id, published_at, keep_until, lane, routing_key, content_type, key, headers, body)
  select id, topic_id, now(), now() + retention_ms * interval '1 ms', lane, routing_key, content_type, key, headers::jsonb,
    substring($14::bytea from body_from for body_bytes)
  from w where taken and first_id = id and logged),
c as materialized (
  select w.ord, w.id, w.lane, w.content_type, w.key, w.headers, w.body_from, w.body_bytes, g.copy, u.hand_ms,
    a.id[u.slot] as queue_id, case when a.lifo[u.slot] then -w.id else w.id end as position,
    w.logged and not a.bounded[u.slot] and not a.keyed[u.slot] and not a.fair[u.slot] as by_reference,
    w.key is not null and (a.keyed[u.slot] or a.fair[u.slot] and d.due_at <= now()) as chained, coalesce(nullif(w.ttl_ms, -1), a.ttl[u.slot]) as lifetime_ms, d.due_at,
    u.hand_ms > 0 and not (w.key is not null and (a.keyed[u.slot] or a.fair[u.slot])) and d.due_at <= now() and not a.closed[u.slot] and ${fence('u.hand_fence', '$29::text')} as handed
  from w cross join a cross join lateral generate_series(w.copies_from, w.copies_to) g(copy)
  cross join lateral (select ($20::int[])[g.copy] as slot, ($23::int[])[g.copy] as hand_ms, ($28::int[])[g.copy] as hand_fence) u
  cross join lateral (select case when w.deliver_at_ms >= 0 then to_timestamp(w.deliver_at_ms / 1000.0)
    else now() + coalesce(nullif(w.delay_ms, -1), a.delay[u.slot]) * interval '1 ms' end as due_at) d
  where w.taken and w.first_id = w.id and a.id[u.slot] > 0),
m as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, log_id, body,
    lease_token, leased_until, attempts)
  select queue_id, lane, position, id, now(), now() + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb,
    case when by_reference then id end, case when not by_reference then substring($14::bytea from body_from for body_bytes) end,
    case when handed then $24::bigint else 0 end, case when handed then now() + hand_ms * interval '1 ms' else '-infinity' end, handed::int
  from c where due_at <= now() and not chained),
${leaseRows({ from: '(select * from c where handed) z', several: 'cardinality($3::int[]) > 1', expiresAt: "now() + hand_ms * interval '1 ms'", token: '$24::bigint' })},
s as (
  insert into postern.scheduled (due_at, queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, log_id, body)
  select due_at, queue_id, lane, nextval('postern.message_position'), id, now(), due_at + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb,
    case when by_reference then id end, case when not by_reference then substring($14::bytea from body_from for body_bytes) end
  from c where due_at > now() and not chained),
v as (
  insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, content_type, headers, body)
  select queue_id, key, id, id, due_at, lane, now(), due_at + lifetime_ms * interval '1 ms', content_type, headers::jsonb,
    substring($14::bytea from body_from for body_bytes)
  from c where chained)
select (select array_agg(first_id order by ord) from w)::text as ids,
  (select array_agg(case when topic_id = 0 then 3 when not taken then 2 when first_id <> id then 1 else 0 end order by ord) from w)::text as states,
  array_agg(c.copy order by c.copy)::text as copies, array_agg(c.position order by c.copy)::text as positions,
  array_agg(case when c.due_at > now() then date_part('epoch', c.due_at) * 1000 else 0 end order by c.copy)::text as due,
  array_agg(case when c.chained then 2 else c.handed::int end order by c.copy)::text as handed, date_part('epoch', now()) * 1000 as now_ms
from c`

const publishText = statement('publish', 'select 1')
const publishBoundedText = statement(
  'publish to bounded queues',
  `select postern.admit_copies(($1::int[])[1], ($2::bigint[])[1], ($18::text[])[1], $3::int[], ($13::int[])[1])`,
)

type Row = {
  ids: string
  states: string
  copies: string | null
  positions: string | null
  due: string | null
  handed: string | null
  now_ms: number
}

/** `token` must be new; `gateway` is who asks, for handing over to a subscription's dispatcher. */
export async function publish(
  db: Database,
  items: readonly PublishItem[],
  probes: readonly Probe[],
  token: number,
  gateway: string,
): Promise<PublishAnswer> {
  const [row] = await db.hot<Row>(publishText, parameters(items, probes, token, gateway, false))
  return answerFrom(row, items)
}

/** One publish of which some copies go to bounded queues: all of them fit, or nothing is stored and it is `full`. */
export async function publishBounded(db: Database, item: PublishItem): Promise<PublishAnswer> {
  try {
    const [row] = await db.hot<Row>(publishBoundedText, parameters([item], [], 0, '', true))
    return answerFrom(row, [item])
  } catch (error) {
    const queue = fullQueue(error instanceof BrokerError ? error.cause : error)
    if (queue === null) throw error
    return { results: [{ status: 'full', queue }], nowMs: 0 }
  }
}

const fullQueue = (error: unknown): string | null =>
  error instanceof Error && 'code' in error && error.code === 'PQ001' && 'detail' in error ? String(error.detail) : null

function parameters(
  items: readonly PublishItem[],
  probes: readonly Probe[],
  token: number,
  gateway: string,
  bounded: boolean,
) {
  // Two publishes to one topic may have been routed by different versions.
  const topics = [...new Map(items.map((item) => [routedBy(item), item])).values()]
  topics.sort((a, b) => a.topicId - b.topicId || a.version - b.version)
  const topicSlots = new Map(topics.map((item, at) => [routedBy(item), at + 1]))
  const queueIds = [...new Set(items.flatMap((item) => item.copies.map((copy) => copy.queueId)))].sort((a, b) => a - b)
  const queueSlots = new Map(queueIds.map((id, at) => [id, at + 1]))
  const slots = items.map((item) => topicSlots.get(routedBy(item)) ?? 0)
  const queueSlot = (id: number): number => queueSlots.get(id) ?? 0
  const { dedup, entries } = dedupEntries(
    items.map(({ message }, at) => ({ queueId: slots[at] ?? 0, message })),
    (slot) => slot,
  )
  const copies = items.flatMap((item) => item.copies)
  const looks = probeArrays(probes, queueSlot, queueIds.length)
  const offsets = startsOf(items.map((item) => item.message.body.length))
  const copyOffsets = startsOf(items.map((item) => item.copies.length))
  const of = (value: (message: NewMessage) => number): string => numbers(items.map((item) => value(item.message)))
  return [
    numbers(topics.map((item) => item.topicId)),
    numbers(topics.map((item) => item.version)),
    numbers(queueIds),
    numbers(slots),
    numbers(items.map((item) => item.lane)),
    of((message) => message.delayMs ?? -1),
    of((message) => message.deliverAtMs ?? -1),
    of((message) => message.ttlMs ?? -1),
    texts(items.map((item) => item.message.contentType)),
    texts(items.map((item) => item.message.key)),
    jsonTexts(items.map((item) => item.message.headers)),
    numbers(offsets),
    of((message) => message.body.length),
    items.length === 1 && items[0] ? items[0].message.body : Buffer.concat(items.map((item) => item.message.body)),
    numbers(dedup),
    texts(items.map((item) => item.routingKey)),
    numbers(entries.map((entry) => entry.slot)),
    texts(entries.map((entry) => entry.dedupId)),
    numbers(entries.map((entry) => entry.first)),
    numbers(copies.map((each) => queueSlot(each.queueId))),
    numbers(copyOffsets),
    numbers(items.map((item, at) => (copyOffsets[at] ?? 1) + item.copies.length - 1)),
    numbers(copies.map((each) => each.handMs)),
    token,
    looks.from,
    looks.lanes,
    looks.marks,
    numbers(copies.map((each) => each.handFence)),
    gateway,
    bounded,
    looks.to,
  ]
}

const routedBy = (item: PublishItem): string => `${item.topicId} ${item.version}`

function answerFrom(row: Row | undefined, items: readonly PublishItem[]): PublishAnswer {
  if (!row) throw new Error('publish: no row')
  const ids = numbersFrom(row.ids)
  const [positions, due, handed] = [row.positions, row.due, row.handed].map(numbersFrom)
  const stored = new Map<number, Omit<StoredCopy, 'copy'>>()
  for (const [at, copy] of numbersFrom(row.copies).entries())
    stored.set(copy, {
      position: positions?.[at] ?? 0,
      dueMs: due?.[at] || null,
      handed: handed?.[at] === 1,
      waiting: handed?.[at] === 2,
    })
  let first = 1
  const results = numbersFrom(row.states).map((state, at): PublishResult => {
    const from = first
    const count = items[at]?.copies.length ?? 0
    first += count
    const id = ids[at] ?? 0
    if (state === 3) return { status: 'stale' }
    if (state === 2) return { status: 'bounded' }
    if (state === 1) return { status: 'duplicate', id }
    const copies = Array.from({ length: count }, (_, copy) => ({ copy, found: stored.get(from + copy) }))
    return { status: 'stored', id, copies: copies.flatMap(({ copy, found }) => (found ? [{ copy, ...found }] : [])) }
  })
  return { results, nowMs: row.now_ms }
}
