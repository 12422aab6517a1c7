/** Changing one message that nobody holds: its body, headers, type and priority, and when it is due. */
import type { MessageChanges } from '../model/index.ts'
import { byId, inWaiting, type StoredRow } from './browse.ts'
import type { Database } from './client.ts'
import { bodyOf } from './log.ts'
import type { Appended } from './upkeep.ts'

const content = `content_type = coalesce($6, x.content_type), headers = case when $7::boolean then $8::text::jsonb else x.headers end,
    body = case when $9::boolean then $10::bytea else x.body end`
const shared = 'log_id = case when $9::boolean then null else x.log_id end'
/** A retried message stays in the retry lane of its priority. */
const lane = 'case when $3::smallint is null then x.lane else ((9 - $3::smallint) * 2 + (x.lane & 1))::smallint end'
/** Its life, which began when it was due, moves along. */
const due = `due_at = coalesce(v.due, x.due_at), expires_at = x.expires_at + (coalesce(v.due, x.due_at) - x.due_at), lane = ${lane}`
const moves = `(coalesce(v.due > now(), false) or x.lane <> ${lane})`

const seen = (state: string, body: string, more: string): string =>
  `${state} as state, x.id, x.lane, x.attempts, x.content_type, x.key, x.headers, ${body} as body, x.enqueued_at, x.expires_at, ${more}`
const alive = 'null::text as reason, null::text as last_error, null::timestamptz as died_at, null::text as origin'
const inPlace = 'null::bigint as at_position, null::float8 as due_in_ms'
const undue = 'null::timestamptz as due_at'

/**
 * The row is locked, so a lease that is being taken comes before or after: before, the change is refused. What waits behind its key is
 * locked under the key's lock: whoever moves the next of the key up passes over rows that are locked. What changes its lane, or from
 * ready to delayed and back, gets a new position and keeps its id and its place in its key's order. What is being moved from one table to
 * another at this moment is `missing`. Where a message with the id may lie is as in `find message`.
 */
const changeText = `/* change message */
with q as materialized (select id, "order" = 'lifo' as lifo from postern.queues where id = $1::int for key share),
v as materialized (
  select case when $5::float8 is not null then greatest(now(), to_timestamp($5::float8 / 1000))
    when $4::bigint is not null then now() + $4::bigint * interval '1 ms' end as due from q),
m as materialized (
  select ctid as tid, lease_token <> 0 as leased from postern.messages
  where ${byId('messages')} and (lease_token <> 0 or expires_at > now()) limit 1 for update),
s as materialized (select ctid as tid from postern.scheduled where ${byId('scheduled')} limit 1 for update),
g as materialized (
  select postern.lock_keys(array_agg(y.queue_id), array_agg(y.key)) as n from (select queue_id, key from postern.waiting where ${inWaiting}) y),
w as materialized (
  select y.ctid as tid from postern.waiting y cross join g where coalesce(g.n, 0) >= 0 and ${inWaiting} limit 1 for update of y),
d as materialized (select ctid as tid from postern.dead where ${byId('dead')} limit 1 for update),
um as (
  update postern.messages x set ${content}, ${shared} from m, v where x.ctid = m.tid and not m.leased and not ${moves}
  returning ${seen("'ready'", bodyOf('x'), `${undue}, ${alive}, x.position as at_position, null::float8 as due_in_ms`)}),
gm as (delete from postern.messages x using m, v where x.ctid = m.tid and not m.leased and ${moves} returning x.*),
us as (
  update postern.scheduled x set ${content}, ${shared}, ${due} from s, v where x.ctid = s.tid and coalesce(v.due > now(), true)
  returning ${seen("'delayed'", bodyOf('x'), `x.due_at, ${alive}, ${inPlace}`)}),
gs as (delete from postern.scheduled x using s, v where x.ctid = s.tid and v.due <= now() returning x.*),
uw as (
  update postern.waiting x set ${content}, ${due} from w, v where x.ctid = w.tid returning ${seen("'ready'", 'x.body', `${undue}, ${alive}, ${inPlace}`)}),
ud as (
  update postern.dead x set ${content}, lane = ${lane} from d, v where x.ctid = d.tid and v.due is null
  returning ${seen("'dead'", 'x.body', `${undue}, x.reason, x.last_error, x.died_at, x.origin, ${inPlace}`)}),
n as materialized (
  select x.id, x.queue_id, ${lane} as lane, x.attempts, x.chain, x.key, x.enqueued_at, x.expires_at + (coalesce(v.due, now()) - x.old_due) as expires_at,
    coalesce(v.due, now()) as due_at, coalesce($6, x.content_type) as content_type,
    case when $7::boolean then $8::text::jsonb else x.headers end as headers, case when $9::boolean then $10::bytea else x.body end as body,
    case when $9::boolean then null else x.log_id end as log_id,
    nextval('postern.message_position') * case when q.lifo then -1 else 1 end as fresh
  from (
    select id, queue_id, lane, attempts, chain, key, enqueued_at, expires_at, now() as old_due, content_type, headers, body, log_id from gm
    union all
    select id, queue_id, lane, attempts, chain, key, enqueued_at, expires_at, due_at, content_type, headers, body, log_id from gs) x
  cross join v cross join q),
nm as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body)
  select queue_id, lane, fresh, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body from n where due_at <= now()),
ns as (
  insert into postern.scheduled (due_at, queue_id, lane, position, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body)
  select due_at, queue_id, lane, fresh, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body from n where due_at > now()),
r as (
  select * from um union all select * from us union all select * from uw union all select * from ud
  union all
  select case when x.due_at > now() then 'delayed' else 'ready' end, x.id, x.lane, x.attempts, x.content_type, x.key, x.headers, ${bodyOf('x')},
    x.enqueued_at, x.expires_at, case when x.due_at > now() then x.due_at end, null, null, null, null, x.fresh,
    case when x.due_at > now() then date_part('epoch', x.due_at - now()) * 1000 end from n x)
select case when r.id is not null then 'changed' when (select leased from m) then 'leased' when exists (select 1 from d) then 'dead'
  else 'missing' end as outcome, r.*, null::timestamptz as leased_until, 0 as first, 0 as second
from (select 1) one left join r on true limit 1`

export type Changed = {
  /** `dead`: a dead letter, which is due at no time. `missing`: not there, or just moving: look whether it is. */
  outcome: 'changed' | 'leased' | 'dead' | 'missing'
  message: StoredRow
  /** It is ready: now, in another lane, or where it was, where a lease may have passed over it while it was locked. */
  appended: Appended | null
  /** It is delayed from now on. */
  dueInMs: number | null
}

/** At most one of `delayMs` and `deliverAtMs`. */
export async function changeMessage(
  db: Database,
  queueId: number,
  id: number,
  changes: MessageChanges,
): Promise<Changed> {
  const { body, contentType, headers, priority, delayMs, deliverAtMs } = changes
  type Row = StoredRow & { outcome: Changed['outcome']; at_position: number | null; due_in_ms: number | null }
  const [row] = await db.calm<Row>(changeText, [
    queueId,
    id,
    priority ?? null,
    delayMs ?? null,
    deliverAtMs ?? null,
    contentType ?? null,
    headers !== undefined,
    headers ? JSON.stringify(headers) : null,
    body !== undefined,
    body ?? null,
  ])
  if (!row) throw new Error('change message: no row')
  const { outcome, at_position: position, due_in_ms: dueInMs, ...message } = row
  const appended = position !== null && dueInMs === null ? { queueId, lane: row.lane, position } : null
  return { outcome, message, appended, dueInMs }
}

/**
 * Whether the queue's max_bytes leaves room for this body in place of the one that the message has; a smaller one always fits, and a dead
 * letter counts for itself alone. Within a transaction: until it ends nobody else adds to the queue, for `admit` takes the same lock, and the
 * count is a statement of its own because it must see what those before have committed.
 */
export async function roomForBody(inside: Database, queueId: number, id: number, bytes: number): Promise<boolean> {
  const [queue] = await inside.calm<{ max_bytes: number | null }>(
    '/* lock bounded queue */ select max_bytes from postern.queues where id = $1::int for no key update',
    [queueId],
  )
  if (!queue || queue.max_bytes === null) return true
  const [row] = await inside.calm<{ fits: boolean }>(
    `/* room for a body */
select $3::bigint + case when d.id is null then m.others else 0 end <= greatest($4::bigint, m.others + m.own) as fits from (
  select coalesce(sum(octet_length(body)) filter (where id <> $2::bigint), 0) as others,
    coalesce(sum(octet_length(body)) filter (where id = $2::bigint), 0) as own
  from (
    select id, body from postern.messages where queue_id = $1::int
    union all select id, body from postern.scheduled where queue_id = $1::int
    union all select id, body from postern.waiting where queue_id = $1::int) x) m
left join lateral (select id from postern.dead where ${byId('dead')} limit 1) d on true`,
    [queueId, id, bytes, queue.max_bytes],
  )
  return row?.fits ?? true
}
