/** What is done by no caller: due messages, ended leases, ended lives, and what deleted queues left behind. Many gateways at once. */
import { liveLease } from './claim.ts'
import { type Database, numbers } from './client.ts'
import { placesIn } from './lease_rows.ts'
import { type MovedRow, movedColumns, route } from './move.ts'

/** The lowest position that became ready in a lane. */
export type Appended = { queueId: number; lane: number; position: number }
export type Promotion = { appended: Appended[]; count: number; nextDueMs: number | null }

/**
 * Skips what another gateway is promoting. `$1` is a hint, seconds before now, that spares the scan over rows already
 * promoted but not yet vacuumed; a look from the beginning of time follows now and then. Primary key of `scheduled`.
 */
const promoteText = `/* promote */
with t as materialized (
  select ctid as tid from postern.scheduled where due_at <= now() and due_at >= now() - $1::float8 * interval '1 s'
  order by due_at, position limit $2::int for update skip locked),
d as (delete from postern.scheduled where ctid = any (array(select tid from t)) returning *),
n as materialized (
  select d.*, nextval('postern.message_position') * case when q."order" = 'lifo' then -1 else 1 end as fresh
  from (select * from d order by due_at, position) d join postern.queues q on q.id = d.queue_id),
m as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body)
  select queue_id, lane, fresh, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body from n)
select n.queue_id, n.lane, min(n.fresh) as position, count(*)::int as n, null::float8 as next_ms from n group by n.queue_id, n.lane
union all
select null, null, null, null, (
  select date_part('epoch', s.due_at - now()) * 1000 from postern.scheduled s where s.due_at > now() order by s.due_at limit 1)`

type PromoteRow = { queue_id: number | null; lane: number; position: number; n: number; next_ms: number | null }

export async function promote(db: Database, lookBackS: number, limit: number): Promise<Promotion> {
  const rows = await db.hot<PromoteRow>(promoteText, [lookBackS, limit])
  const moved = rows.filter((row): row is PromoteRow & { queue_id: number } => row.queue_id !== null)
  return {
    appended: moved.map((row) => ({ queueId: row.queue_id, lane: row.lane, position: row.position })),
    count: moved.reduce((sum, row) => sum + row.n, 0),
    nextDueMs: rows.find((row) => row.queue_id === null)?.next_ms ?? null,
  }
}

export type Expiry = { moved: MovedRow[]; leases: number; nextDueMs: number | null }

/**
 * Messages still held by a lease that ran out go where `route` says. A row that an ack or extend has locked at this moment is
 * skipped, and then the lease row stays for the next time: only when all that it held is dealt with may it go.
 * Primary keys of `leases` and `messages`.
 */
const expireText = `/* expire */
with l as materialized (
  select ctid as lease_tid, queue_id, lane, token, positions, queue_ids, lanes from postern.leases
  where expires_at <= now() and expires_at >= now() - $1::float8 * interval '1 s'
  order by expires_at limit $2::int for update skip locked),
h as materialized (
  select l.lease_tid, p.queue_id, p.lane, l.token, p.position from l cross join ${placesIn('l')} p
  cross join lateral (
    select 1 from postern.messages m where m.queue_id = p.queue_id and m.lane = p.lane and m.position = p.position
      and m.lease_token = l.token and m.leased_until <= now() limit 1) x),
t as materialized (
  select h.lease_tid, x.tid from h cross join lateral (
    select m.ctid as tid from postern.messages m where m.queue_id = h.queue_id and m.lane = h.lane and m.position = h.position
      and m.lease_token = h.token and m.leased_until <= now() limit 1 for update skip locked) x),
gone as (
  delete from postern.messages m using t where m.ctid = t.tid
  returning m.*, 0::bigint as ord, 'nack' as kind, -1::bigint as delay_ms, 'The lease expired.' as error, t.lease_tid),
${route},
z as (
  delete from postern.leases where ctid = any (array(
    select l.lease_tid from l where (select count(*) from h) = (select count(*) from gone)
      or (select count(*) from h where h.lease_tid = l.lease_tid) = (select count(*) from gone where gone.lease_tid = l.lease_tid))))
select ${movedColumns}, null::int as leases, null::float8 as next_ms from k
union all
select null, null, null, null, null, null, null, null, null, null, (select count(*)::int from l), (
  select date_part('epoch', e.expires_at - now()) * 1000 from postern.leases e where e.expires_at > now() order by e.expires_at limit 1)`

type ExpireRow = MovedRow & { fate: MovedRow['fate'] | null; leases: number | null; next_ms: number | null }

export async function expire(db: Database, lookBackS: number, limit: number): Promise<Expiry> {
  const rows = await db.hot<ExpireRow>(expireText, [lookBackS, limit])
  const tail = rows.find((row) => row.fate === null)
  return { moved: rows.filter((row) => row.fate !== null), leases: tail?.leases ?? 0, nextDueMs: tail?.next_ms ?? null }
}

export type Cursor = { queueId: number; lane: number; position: number }

/**
 * A walk over all messages in the order of the primary key, some at a time: ends those whose ttl is over, and frees those whose
 * lease ended a minute ago without its lease row saying so (which should not happen).
 */
const retireText = `/* retire */
with s as materialized (
  select ctid as tid, queue_id, lane, position, lease_token, leased_until, expires_at from postern.messages
  where (queue_id, lane, position) > ($1::int, $2::smallint, $3::bigint) order by queue_id, lane, position limit $4::int),
t as materialized (
  select x.tid, x.kind from s cross join lateral (
    select m.ctid as tid, case when m.lease_token = 0 then 'expired' else 'nack' end as kind from postern.messages m
    where m.queue_id = s.queue_id and m.lane = s.lane and m.position = s.position
      and (m.lease_token = 0 and m.expires_at <= now() or m.lease_token <> 0 and m.leased_until < now() - interval '1 minute')
    limit 1 for update skip locked) x
  where s.lease_token = 0 and s.expires_at <= now() or s.lease_token <> 0 and s.leased_until < now() - interval '1 minute'),
gone as (
  delete from postern.messages m using t where m.ctid = t.tid
  returning m.*, 0::bigint as ord, t.kind, -1::bigint as delay_ms, null::text as error),
${route}
select ${movedColumns}, null::int as at_queue_id, null::int as at_lane, null::bigint as at_position from k
union all
(select null, null, null, null, null, null, null, null, null, null, queue_id, lane, position from s order by queue_id desc, lane desc, position desc limit 1)`

type RetireRow = MovedRow & {
  fate: MovedRow['fate'] | null
  at_queue_id: number | null
  at_lane: number
  at_position: number
}

/** `next` is null at the end of the walk. */
export async function retire(
  db: Database,
  from: Cursor,
  limit: number,
): Promise<{ moved: MovedRow[]; next: Cursor | null }> {
  const rows = await db.hot<RetireRow>(retireText, [from.queueId, from.lane, from.position, limit])
  const tail = rows.find((row) => row.fate === null)
  return {
    moved: rows.filter((row) => row.fate !== null),
    next:
      tail?.at_queue_id == null ? null : { queueId: tail.at_queue_id, lane: tail.at_lane, position: tail.at_position },
  }
}

/** Dedup ids, requests and rates whose time is over, a few thousand at a time. Indexes `dedup_expires`, `receive_requests_expires` and `rates_at`. */
const forgetText = `/* forget */
with d as (
  delete from postern.dedup where ctid = any (array(
    select ctid from postern.dedup where expires_at <= now() order by expires_at limit $1::int for update skip locked)) returning 1),
r as (
  delete from postern.rates where ctid = any (array(
    select ctid from postern.rates where at < now() - interval '2 minutes' order by at limit $1::int for update skip locked)) returning 1),
q as (
  delete from postern.receive_requests where ctid = any (array(
    select ctid from postern.receive_requests r where r.expires_at <= now() and not ${liveLease('r')}
    order by r.expires_at limit $1::int for update skip locked)) returning 1)
select (select count(*) from d)::int + (select count(*) from r)::int + (select count(*) from q)::int as n`

export async function forget(db: Database, limit: number): Promise<number> {
  const [row] = await db.hot<{ n: number }>(forgetText, [limit])
  return row?.n ?? 0
}

/** The queues that are gone but have left rows, found by skipping from one queue's rows to the next. */
const orphansText = `/* orphans */
with recursive m(id) as (
  select min(queue_id) from postern.messages union all
  select (select min(queue_id) from postern.messages where queue_id > m.id) from m where m.id is not null),
s(id) as (
  select min(queue_id) from postern.scheduled union all
  select (select min(queue_id) from postern.scheduled where queue_id > s.id) from s where s.id is not null),
d(id) as (
  select min(queue_id) from postern.dead union all
  select (select min(queue_id) from postern.dead where queue_id > d.id) from d where d.id is not null),
w(id) as (
  select min(queue_id) from postern.waiting union all
  select (select min(queue_id) from postern.waiting where queue_id > w.id) from w where w.id is not null)
select distinct x.id from (select id from m union all select id from s union all select id from d union all select id from w) x
where x.id is not null and not exists (select 1 from postern.queues q where q.id = x.id)`

export async function orphans(db: Database): Promise<number[]> {
  return (await db.hot<{ id: number }>(orphansText, [])).map((row) => row.id)
}

/** Deletes up to `limit` rows of each kind, of queues that are gone or in the states asked. Skips rows that are being settled. */
const sweepText = `/* sweep */
with m as (
  delete from postern.messages where ctid = any (array(
    select ctid from postern.messages where queue_id = any ($1::int[]) and coalesce(chain, abs(position)) <= $3::bigint
      and (lease_token = 0 and 'ready' = any ($2::text[]) or lease_token <> 0 and 'leased' = any ($2::text[]))
    limit $4::int for update skip locked)) returning 1),
s as (
  delete from postern.scheduled where 'delayed' = any ($2::text[]) and ctid = any (array(
    select ctid from postern.scheduled where queue_id = any ($1::int[]) and coalesce(chain, abs(position)) <= $3::bigint limit $4::int for update skip locked)) returning 1),
d as (
  delete from postern.dead where 'dead' = any ($2::text[]) and ctid = any (array(
    select ctid from postern.dead where queue_id = any ($1::int[]) and position <= $3::bigint limit $4::int for update skip locked)) returning 1),
w as (
  delete from postern.waiting where 'ready' = any ($2::text[]) and ctid = any (array(
    select ctid from postern.waiting where queue_id = any ($1::int[]) and position <= $3::bigint limit $4::int for update skip locked)) returning 1)
select (select count(*) from m)::int + (select count(*) from s)::int + (select count(*) from d)::int + (select count(*) from w)::int as n`

/**
 * Of messages up to position `upTo`, so that what is sent meanwhile stays; what moves up behind its key meanwhile is as old as its place
 * there. Returns how many it deleted.
 */
export async function sweep(
  db: Database,
  queueIds: readonly number[],
  states: readonly string[],
  upTo: number,
  limit: number,
): Promise<number> {
  const [row] = await db.hot<{ n: number }>(sweepText, [numbers(queueIds), `{${states.join(',')}}`, upTo, limit])
  return row?.n ?? 0
}

/** The highest position given out so far. */
export async function lastPosition(db: Database): Promise<number> {
  const [row] = await db.hot<{ last_value: number }>(
    '/* last position */ select last_value from postern.message_position',
    [],
  )
  return row?.last_value ?? 0
}
