/** Which gateway delivers for which subscription, how endpoints are doing, and the log of attempts. */
import { type Attempt, type Headers, type Health, parseMessageId } from '../model/index.ts'
import { type Database, jsonTexts, jsonTextsIn, numbers, startsOf, texts } from './client.ts'
import { protocol } from './presence.ts'

/**
 * One heartbeat: this gateway's row lives on, and it takes what nobody alive owns, up to its fair share of all enabled
 * subscriptions; what dead gateways own only when `$3` says so. Others may claim at the same moment: rows that they have locked are skipped. Dead gateways' rows go after an hour.
 * Primary key of `gateways`, index `subscriptions_owner`.
 */
const claimText = `/* claim subscriptions */
with me as (
  insert into postern.gateways (id, alive_until, leaving, protocol) values ($1, now() + $2::int * interval '1 ms', false, ${protocol})
  on conflict (id) do update set alive_until = excluded.alive_until, leaving = false, protocol = excluded.protocol),
gone as (delete from postern.gateways where alive_until < now() - interval '1 hour' and id <> $1),
alive as materialized (select id, leaving from postern.gateways where alive_until > now() and id <> $1),
share as materialized (
  select ceil((select count(*) from postern.subscriptions where disabled is null)::float8 / ((select count(*) from alive where not leaving) + 1))::int as n),
mine as materialized (select id from postern.subscriptions where owner = $1 and disabled is null),
free as materialized (
  select id, owner from postern.subscriptions s where disabled is null and (owner is null or $3::boolean and owner <> $1 and owner not in (select id from alive))
  order by id limit greatest(0, (select n from share) - (select count(*) from mine)::int) for update skip locked),
taken as (update postern.subscriptions set owner = $1 where id in (select id from free) returning id)
select (select coalesce(array_agg(id), '{}') from taken)::text as taken,
  (select coalesce(array_agg(id), '{}') from free where owner is not null)::text as inherited,
  greatest(0, (select count(*) from mine)::int - (select n from share)) as excess`

/** What was newly taken, which of it from dead gateways, and how many more than its share it holds. `aliveMs`: from now by Postgres's clock. */
export async function claim(
  db: Database,
  gateway: string,
  aliveMs: number,
  takeOver: boolean,
): Promise<{ taken: number[]; inherited: number[]; excess: number }> {
  const [row] = await db.hot<{ taken: string; inherited: string; excess: number }>(claimText, [
    gateway,
    aliveMs,
    takeOver,
  ])
  return { taken: parse(row?.taken), inherited: parse(row?.inherited), excess: row?.excess ?? 0 }
}

const parse = (text: string | undefined): number[] =>
  text === undefined || text === '{}' ? [] : text.slice(1, -1).split(',').map(Number)

/** A heartbeat of a gateway that stops: what it owns stays its own until it is released, and its share is the others'. */
export async function keepOwned(db: Database, gateway: string, aliveMs: number): Promise<void> {
  await db.hot(
    `/* keep owned */ update postern.gateways set alive_until = now() + $2::int * interval '1 ms', leaving = true where id = $1`,
    [gateway, aliveMs],
  )
}

/** Gives subscriptions back; those of another gateway stay. */
export async function releaseSubscriptions(db: Database, gateway: string, ids: readonly number[]): Promise<void> {
  await db.hot(
    '/* release subscriptions */ update postern.subscriptions set owner = null where owner = $1 and id = any ($2::int[])',
    [gateway, numbers(ids)],
  )
}

/** This gateway delivers no more: whatever it still owns is free at once. Its row stays until it is forgotten, for it still serves. */
export async function retireGateway(db: Database, gateway: string): Promise<void> {
  await db.hot(
    `/* retire gateway */ with s as (update postern.subscriptions set owner = null where owner = $1)
      update postern.gateways set leaving = true where id = $1`,
    [gateway],
  )
}

/** What this gateway owns, with the version of each. Index `subscriptions_owner`. */
export async function ownedBy(db: Database, gateway: string): Promise<Map<number, number>> {
  const rows = await db.hot<{ id: number; version: number }>(
    '/* owned subscriptions */ select id, version from postern.subscriptions where owner = $1 and disabled is null',
    [gateway],
  )
  return new Map(rows.map((row) => [row.id, row.version]))
}

/** Which of these another gateway owns. Primary key. */
export async function ownedByOthers(db: Database, gateway: string, ids: readonly number[]): Promise<Set<number>> {
  const rows = await db.hot<{ id: number }>(
    '/* owned by others */ select id from postern.subscriptions where id = any ($2::int[]) and owner <> $1',
    [gateway, numbers(ids)],
  )
  return new Set(rows.map((row) => row.id))
}

/** Fenced: only the owner's word counts. Durations are from now, by Postgres's clock. */
export async function recordHealth(
  db: Database,
  gateway: string,
  id: number,
  health: Pick<Health, 'circuit' | 'failures'> & { failing: boolean; heldMs: number | null },
): Promise<{ failingMs: number }> {
  const [row] = await db.hot<{ failing_ms: number }>(
    `/* record health */ update postern.subscriptions set circuit = $3, failures = $4::int,
        failing_since = case when $5::boolean then coalesce(failing_since, now()) end, held_until = now() + $6::bigint * interval '1 ms'
      where id = $1::int and owner = $2 returning coalesce(date_part('epoch', now() - failing_since) * 1000, 0) as failing_ms`,
    [id, gateway, health.circuit, health.failures, health.failing, health.heldMs],
  )
  return { failingMs: row?.failing_ms ?? 0 }
}

export type NewAttempt = Omit<Attempt, 'id'> & { subscription: number }

/** Many at once; a subscription that is gone leaves none. */
const recordText = `/* record attempts */
insert into postern.attempts (subscription_id, message_id, attempt, at, succeeded, status, duration_ms, request_headers, response_headers,
  response_body, error, next_attempt_at)
select a.s, a.m, a.n, to_timestamp(a.at / 1000), a.ok, nullif(a.status, 0), a.ms, a.rq::jsonb, a.rs::jsonb,
  substring($13::bytea from a.body_from for a.body_bytes), a.error, case when a.next > 0 then to_timestamp(a.next / 1000) end
from unnest($1::int[], $2::bigint[], $3::smallint[], $4::float8[], $5::boolean[], $6::smallint[], $7::int[], ${jsonTextsIn('$8')}, ${jsonTextsIn('$9')},
  $10::int[], $11::int[], $12::text[], $14::float8[]) a(s, m, n, at, ok, status, ms, rq, rs, body_from, body_bytes, error, next)
where a.s = any (array(select x.id from postern.subscriptions x where x.id = any ($1::int[])))
returning id`

/** Their numbers, in the order given when none is missing. */
export async function recordAttempts(db: Database, items: readonly NewAttempt[]): Promise<number[]> {
  const offsets = startsOf(items.map((item) => item.responseBody.length))
  const rows = await db.hot<{ id: number }>(recordText, [
    numbers(items.map((item) => item.subscription)),
    numbers(items.map((item) => parseMessageId(item.messageId) ?? 0)),
    numbers(items.map((item) => item.attempt)),
    numbers(items.map((item) => item.at.getTime())),
    `{${items.map((item) => item.outcome === 'succeeded').join(',')}}`,
    numbers(items.map((item) => item.status ?? 0)),
    numbers(items.map((item) => Math.round(item.durationMs))),
    jsonTexts(items.map((item) => item.requestHeaders)),
    jsonTexts(items.map((item) => item.responseHeaders)),
    numbers(offsets),
    numbers(items.map((item) => item.responseBody.length)),
    texts(items.map((item) => item.error)),
    Buffer.concat(items.map((item) => item.responseBody)),
    numbers(items.map((item) => item.nextAttemptAt?.getTime() ?? 0)),
  ])
  return rows.map((row) => row.id)
}

export type AttemptRow = {
  id: number
  message_id: number
  attempt: number
  at: Date
  succeeded: boolean
  status: number | null
  duration_ms: number
  request_headers: Headers
  response_headers: Headers
  response_body: Buffer
  error: string | null
  next_attempt_at: Date | null
}

/** Newest first, before number `before`; `succeeded` null: all. Index `attempts_subscription`. */
export async function listAttempts(
  db: Database,
  subscription: number,
  succeeded: boolean | null,
  before: number,
  limit: number,
): Promise<AttemptRow[]> {
  return await db.calm<AttemptRow>(
    `/* list attempts */ select * from postern.attempts
      where subscription_id = $1::int and id < $2::bigint and ($3::boolean is null or succeeded = $3::boolean) order by id desc limit $4::int`,
    [subscription, before, succeeded, limit],
  )
}

/** Attempts older than `keepMs`, a few thousand at a time, oldest first; returns how many. Primary key. */
export async function trimAttempts(db: Database, keepMs: number, limit: number): Promise<number> {
  const rows = await db.hot<{ n: number }>(
    `/* trim attempts */ with d as (
        delete from postern.attempts where id = any (array(
          select id from (select id, at from postern.attempts order by id limit $2::int) x where at < now() - $1::bigint * interval '1 ms')) returning 1)
      select count(*)::int as n from d`,
    [keepMs, limit],
  )
  return rows[0]?.n ?? 0
}

/**
 * All but the newest `keep` of each of the next subscriptions after number `after`, a few thousand at a time. Answers where the walk
 * goes on: the last of these subscriptions when nothing was deleted, `after` again when there may be more, null at the end. Primary key of
 * `subscriptions`, index `attempts_subscription`.
 */
export async function trimAttemptsOf(
  db: Database,
  after: number,
  subscriptions: number,
  keep: number,
  limit: number,
): Promise<number | null> {
  const [row] = await db.hot<{ n: number; last: number | null; walked: number }>(
    `/* trim attempts of subscriptions */ with s as materialized (
        select id from postern.subscriptions where id > $1::int order by id limit $2::int),
      d as (
        delete from postern.attempts where id = any (array(
          select o.id from s
          cross join lateral (select a.id from postern.attempts a where a.subscription_id = s.id order by a.subscription_id desc, a.id desc offset $3::int limit 1) last
          cross join lateral (select a.id from postern.attempts a where a.subscription_id = s.id and a.id <= last.id order by a.subscription_id, a.id limit $4::int) o)) returning 1)
      select (select count(*) from d)::int as n, (select max(id) from s) as last, (select count(*) from s)::int as walked`,
    [after, subscriptions, keep, limit],
  )
  if (!row || row.last === null) return null
  if (row.n > 0) return after
  return row.walked < subscriptions ? null : row.last
}
