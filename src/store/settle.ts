/** Ending and extending leases: each statement takes receipts of any number of queues, many callers at once. */
import type { Receipt } from '../model/index.ts'
import { type Database, numbers, texts } from './client.ts'
import type { FreedKey } from './keyed.ts'
import { leaseRows } from './lease_rows.ts'
import { type MovedRow, type MoveKind, movedColumns, route } from './move.ts'

/** The row of a receipt, as long as it still carries the receipt's token. The lateral with its limit keeps the index lookup. */
const held = (lock: string): string => `
  cross join lateral (
    select m.ctid as tid, m.queue_id, m.lane, m.position, m.lease_token from postern.messages m
    where m.queue_id = a.queue_id and m.lane = a.lane and m.position = a.position and m.lease_token = a.token limit 1 ${lock}) x`

const place = (receipts: readonly Receipt[]) => [
  numbers(receipts.map((receipt) => receipt.queueId)),
  numbers(receipts.map((receipt) => receipt.lane)),
  numbers(receipts.map((receipt) => receipt.position)),
  numbers(receipts.map((receipt) => receipt.token)),
]

/**
 * Deletes by ctid, which Postgres visits in physical order: two acks of the same messages in different orders do not
 * deadlock. Two acks of one lease: the second finds nothing. Of a run all before its first is done, whichever of it was acked. Primary key
 * of `messages`.
 */
const ackText = `/* ack */
with d as (
  delete from postern.messages where ctid = any (array(
    select x.tid from unnest($1::int[], $2::smallint[], $3::bigint[], $4::bigint[]) a(queue_id, lane, position, token) ${held('')}))
  returning queue_id, lane, position, key, coalesce(follows - 1, chain) as done)
select array_agg(queue_id || ' ' || lane || ' ' || position) as places,
  (select jsonb_agg(jsonb_build_object('queueId', x.queue_id, 'key', x.key, 'after', x.done)) from (
    select queue_id, key, max(done) as done from d where done is not null group by queue_id, key) x) as freed from d`

/** The name of a place, for looking up. A position alone is not enough: copies of one publish share it. */
export const placeOf = ({ queueId, lane, position }: Pick<Receipt, 'queueId' | 'lane' | 'position'>): string =>
  `${queueId} ${lane} ${position}`

/** The places of the leases that this ended, and the keys whose next message may move up. */
export async function ack(
  db: Database,
  receipts: readonly Receipt[],
): Promise<{ places: Set<string>; freed: FreedKey[] }> {
  const [row] = await db.hot<{ places: string | null; freed: FreedKey[] | null }>(ackText, place(receipts))
  return { places: new Set(placesFrom(row?.places ?? null)), freed: row?.freed ?? [] }
}

/** A `text[]` of names of places, which need no quotes but those that the blanks ask for. */
const placesFrom = (text: string | null): string[] =>
  text === null ? [] : text.slice(1, -1).replaceAll('"', '').split(',')

export type Release = {
  receipt: Receipt
  kind: MoveKind /** -1: the queue's backoff. */
  delayMs: number
  error: string | null
}

/** Rows are locked in the order given: sort by queue, lane and position. Primary key of `messages`. */
const releaseText = `/* release */
with t as materialized (
  select a.ord, a.kind, a.delay_ms, a.error, x.tid
  from unnest($1::int[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::text[])
    with ordinality a(queue_id, lane, position, token, kind, delay_ms, error, ord) ${held('for update')}),
gone as (
  delete from postern.messages m using t where m.ctid = t.tid
  returning m.*, t.ord, t.kind, t.delay_ms, t.error),
${route}
select ${movedColumns} from k`

/** Ends leases without an ack. Rows answer in `ord` (from 1) which of the given were still held. */
export async function release(db: Database, items: readonly Release[]): Promise<MovedRow[]> {
  return await db.hot<MovedRow>(releaseText, [
    ...place(items.map((item) => item.receipt)),
    texts(items.map((item) => item.kind)),
    numbers(items.map((item) => item.delayMs)),
    texts(items.map((item) => item.error)),
  ])
}

const noneBounded =
  'not exists (select 1 from u join postern.queues k on k.id = u.queue_id where k.max_leased is not null)'

/**
 * The old lease row stays: when it runs out it finds the message leased for longer and does nothing. Rows are locked in
 * the order given, as in release.
 */
const extendText = `/* extend */
with t as materialized (
  select a.lease_ms, x.* from unnest($1::int[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[])
    a(queue_id, lane, position, token, lease_ms) ${held('for update')}),
u as (
  update postern.messages m set leased_until = now() + t.lease_ms * interval '1 ms' from t where m.ctid = t.tid
  returning m.queue_id, m.lane, m.position, m.lease_token, m.leased_until),
${leaseRows({ from: 'u', several: `cardinality($1::int[]) > 1 and ${noneBounded}`, expiresAt: 'leased_until', token: 'lease_token' })}
select queue_id, lane, position, date_part('epoch', leased_until) * 1000 as leased_until_ms from u`

/** Leases counted from now; returns the new ends, milliseconds since 1970, by place. */
export async function extend(
  db: Database,
  items: readonly { receipt: Receipt; leaseMs: number }[],
): Promise<Map<string, number>> {
  type Row = { queue_id: number; lane: number; position: number; leased_until_ms: number }
  const rows = await db.hot<Row>(extendText, [
    ...place(items.map((item) => item.receipt)),
    numbers(items.map((item) => item.leaseMs)),
  ])
  return new Map(
    rows.map(({ queue_id: queueId, lane, position, leased_until_ms: endMs }) => [
      placeOf({ queueId, lane, position }),
      endMs,
    ]),
  )
}

/**
 * Tells "already settled" from "somebody else's": whether a message is still in its queue, or among the dead letters that came
 * from it (copies of one publish share their id, so another queue's must not count). The first position is the id, so one that
 * never moved is found by the primary key; one that moved, by `messages_moved`.
 */
const survivorsText = `/* survivors */
select x.ord from unnest($1::int[], $2::bigint[]) with ordinality x(queue_id, id, ord)
where exists (
    select 1 from postern.messages m where m.id = x.id and m.id <> abs(m.position) and (m.queue_id = x.queue_id
      or m.headers ->> 'postern-dead-queue' = (select q.name from postern.queues q where q.id = x.queue_id)))
  or exists (
    select 1 from generate_series(0, 19) l(lane) cross join unnest(array[x.id, -x.id]) p(position) cross join lateral (
      select 1 from postern.messages m
      where m.queue_id = x.queue_id and m.lane = l.lane and m.position = p.position limit 1) y)
  or exists (select 1 from postern.scheduled s where s.id = x.id and s.queue_id = x.queue_id)
  or exists (select 1 from postern.waiting w where w.queue_id + 0 = x.queue_id and w.position + 0 = x.id)
  or exists (select 1 from postern.waiting w where w.id = x.id and w.id <> w.position and w.queue_id = x.queue_id)
  or exists (select 1 from postern.dead d where d.id = x.id and d.queue_id = x.queue_id)`

/** Which of these (by their place in the list) still exist in any state. */
export async function survivors(db: Database, receipts: readonly Receipt[]): Promise<Set<number>> {
  const rows = await db.hot<{ ord: number }>(survivorsText, [
    numbers(receipts.map((receipt) => receipt.queueId)),
    numbers(receipts.map((receipt) => receipt.id)),
  ])
  return new Set(rows.map((row) => Number(row.ord) - 1))
}
