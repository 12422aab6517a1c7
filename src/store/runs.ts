/**
 * Runs: a lease of the first message of a key takes along messages that wait behind it, as one lease of several consecutive messages. What
 * is taken along is deleted from `waiting` and stored leased. Parts of the lease statement, and the order of its answer.
 */
import { knowsRuns, someoneBehind } from './presence.ts'

/**
 * Follows `t`, the heads. A head is locked and was in `messages` since this statement's snapshot, so nobody else moves its key; one that was
 * changed after the snapshot lies where the snapshot sees nothing, will not be leased by it, and nothing may follow it. What is
 * visible behind it is a prefix of what was committed, because senders to one key take turns. A message that somebody is changing is locked, and
 * one that was changed since has another xmin: the run ends before it, as it does before one that is delayed, expired or was delivered before (that
 * one comes alone, so that a failing message costs those behind it one attempt at most). Every receiver can be given whole runs: each
 * has room for its part of the heads times the length of a run. Nothing follows while a gateway runs that would not know what a run is.
 * Primary key of `waiting`, index `gateways_behind`.
 */
const found = `h as materialized (
  select y.* from (
    select z.*, least(z.per_key, z.most / ceil(z.heads::float8 / z.receivers)::int, greatest(1, z.room / z.heads)) - 1 as follow
    from (select t.*, count(*) over (partition by t.queue_id)::int as heads from t) z) y
  where y.leads and not y.exhausted and y.follow > 0 and exists (select 1 from postern.messages m where m.ctid = y.tid limit 1)
    and not ${someoneBehind(knowsRuns)}),
b as materialized (
  select h.queue_id, h.chain, w.* from h cross join lateral (
    select y.*, row_number() over (order by y.position) as step from (
      select w.ctid as tid, w.xmin as version, w.lane, w.position, coalesce(octet_length(w.body), 0) as bytes,
        w.attempts = 0 and w.due_at <= now() and w.expires_at > now() as fit
      from postern.waiting w where w.queue_id = h.queue_id and w.key = h.key and w.position > h.chain
      order by w.queue_id, w.key, w.position limit h.follow) y) w),
o as materialized (
  select b.*, x.held is not null as held from b left join lateral (
    select true as held from postern.waiting w where w.ctid = b.tid and w.xmin = b.version and b.fit limit 1 for update skip locked) x on true),
behind as materialized (
  select y.*, nextval('postern.message_position') as fresh from (
    select z.queue_id, z.chain, z.tid, z.lane from (
      select w.*, sum(w.bytes) over (order by w.step, w.chain rows unbounded preceding) + (select coalesce(sum(bytes), 0) from t) as running from (
        select o.*, bool_and(o.held) over (partition by o.queue_id, o.chain order by o.step) as whole from o) w
      where w.whole) z
    where z.running <= $9::bigint order by z.chain, z.step) y),
`

const taken = (claims: boolean): string => `along as (
  delete from postern.waiting w using behind where w.ctid = behind.tid${claims ? ' and exists (select 1 from claim)' : ''}
  returning w.*, behind.chain, behind.fresh),
stored as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, attempts, content_type, key, headers, body, chain, follows,
    lease_token, leased_until)
  select queue_id, lane, fresh, id, enqueued_at, expires_at, 1, content_type, key, headers, body, position, chain,
    $7::bigint, now() + $8::int * interval '1 ms' from along),
`

const rows = `
union all
select queue_id, lane, fresh, id, 1, content_type, key, headers, body, date_part('epoch', enqueued_at) * 1000,
  date_part('epoch', now() + $8::int * interval '1 ms') * 1000, false, false, (select count(*) from c) > (select count(*) from t), null, position, chain
from along`

export const following = { found, taken, rows }

type Placed = { queue_id: number; chain: number | null; follows: number | null }

/** Each run behind its first message, in the order of its key; all else as it comes. What is left of a run whose first is gone comes last. */
export function inRuns<Row extends Placed>(sorted: readonly Row[]): Row[] {
  const runs = new Map<string, Row[]>()
  for (const row of sorted) {
    if (row.follows === null) continue
    const name = `${row.queue_id} ${row.follows}`
    const run = runs.get(name)
    if (run) run.push(row)
    else runs.set(name, [row])
  }
  for (const run of runs.values()) run.sort((a, b) => (a.chain ?? 0) - (b.chain ?? 0))
  const ordered: Row[] = []
  for (const row of sorted) {
    if (row.follows !== null) continue
    const name = `${row.queue_id} ${row.chain}`
    ordered.push(row, ...(runs.get(name) ?? []))
    runs.delete(name)
  }
  return ordered.concat(...runs.values())
}
