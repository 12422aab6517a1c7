/** Reading what there is to know about one message. Nothing here locks, and nothing changes anything. */
import type { CircuitState, DeathReason, DisabledReason, Headers } from '../model/index.ts'
import { byId, inWaiting } from './browse.ts'
import { type Database, numbers } from './client.ts'

export type TraceRow = {
  place: 'messages' | 'scheduled' | 'waiting' | 'dead'
  queue_id: number
  /** The queue in which it lies. */
  queue: string
  lane: number
  position: number
  id: number
  attempts: number
  key: string | null
  headers: Headers | null
  enqueued_at: Date
  expires_at: Date
  due_at: Date | null
  /** 0: not leased. */
  token: number
  leased_until: Date | null
  reason: DeathReason | null
  last_error: string | null
  died_at: Date | null
  now: Date
}

const plain = 'queue_id, lane, position, id, attempts, key, headers, enqueued_at, expires_at'
const undue = 'null::timestamptz as due_at'
const free = '0::bigint as token, null::timestamptz as leased_until'
const alive = 'null::text as reason, null::text as last_error, null::timestamptz as died_at'

const ofMessages = `'messages' as place, ${plain}, ${undue}, lease_token as token, case when lease_token <> 0 then leased_until end as leased_until, ${alive} from postern.messages`
const ofScheduled = `'scheduled' as place, ${plain}, due_at, ${free}, ${alive} from postern.scheduled`
const ofWaiting = `'waiting' as place, ${plain}, due_at, ${free}, ${alive} from postern.waiting`
const ofDead = `'dead' as place, ${plain}, ${undue}, ${free}, reason, last_error, died_at from postern.dead`
/** What a dead-letter queue has taken says whose it was: copies of one publish share their id. */
const elsewhere = `id = $2::bigint and queue_id <> $1::int and headers ->> 'postern-dead-queue' = (select name from postern.queues where id = $1::int)`

/**
 * Where the message is: with its queue, or with a queue that took it as its dead letter. Primary key and `messages_moved`,
 * `scheduled_id`, `waiting_place`, `waiting_moved`, `dead_id`.
 */
const traceText = `/* trace message */
select x.*, q.name as queue, now() as now from (
  select 1 as nth, ${ofMessages} where ${byId('messages')}
  union all select 1, ${ofScheduled} where ${byId('scheduled')}
  union all select 1, ${ofWaiting} where ${inWaiting}
  union all select 2, ${ofDead} where ${byId('dead')}
  union all select 3, ${ofMessages} where ${elsewhere} and id <> abs(position)
  union all select 3, ${ofScheduled} where ${elsewhere}
  union all select 4, ${ofDead} where ${elsewhere}) x
join postern.queues q on q.id = x.queue_id
order by x.nth limit 1`

/** null: it is in no queue any more, or never was in this one. */
export async function traceMessage(db: Database, queueId: number, id: number): Promise<TraceRow | null> {
  const [row] = await db.calm<TraceRow>(traceText, [queueId, id])
  return row ?? null
}

export type KeyTrace = {
  blocked_at: Date | null
  blocked_by: number | null
  reason: DeathReason | null
  last_error: string | null
  first_id: number | null
  first_state: 'ready' | 'leased' | 'delayed' | null
  first_until: Date | null
  before: number
}

/** The key of a message that waits at `position`. Primary keys of `blocked_keys` and `waiting`, `messages_of_key`, `scheduled_of_key`. */
const keyText = `/* trace key */
select b.blocked_at, b.message_id as blocked_by, b.reason, b.last_error, f.id as first_id, f.state as first_state, f.until as first_until,
  (select count(*) from (select 1 from postern.waiting where queue_id = $1::int and key = $2 and position < $3::bigint limit $4::int) w)::int as before
from (select 1) one
left join lateral (select * from postern.blocked_keys where queue_id = $1::int and key = $2 order by chain limit 1) b on true
left join lateral (
  (select id, chain, case when lease_token = 0 then 'ready' else 'leased' end as state, case when lease_token <> 0 then leased_until end as until
    from postern.messages where queue_id + 0 = $1::int and key = $2 and chain is not null order by chain limit 1)
  union all
  (select id, chain, 'delayed', due_at from postern.scheduled where queue_id + 0 = $1::int and key = $2 and chain is not null order by chain limit 1)
  order by chain limit 1) f on true`

export async function traceKey(
  db: Database,
  queueId: number,
  key: string,
  position: number,
  count: number,
): Promise<KeyTrace | null> {
  const [row] = await db.calm<KeyTrace>(keyText, [queueId, key, position, count])
  return row ?? null
}

/** Ready messages before a place in the order of handing out, at most `count`. Primary key of `messages`. */
export async function countAhead(
  db: Database,
  place: { queueId: number; lane: number; position: number },
  count: number,
): Promise<number> {
  const [row] = await db.calm<{ n: number }>(
    `/* count ahead */ select count(*)::int as n from (
        select 1 from postern.messages where queue_id = $1::int and (lane, position) < ($2::smallint, $3::bigint) and lease_token = 0
          and expires_at > now() limit $4::int) x`,
    [place.queueId, place.lane, place.position, count],
  )
  return row?.n ?? 0
}

const leasesLookedAt = 1_000

/** Whether somebody has leased from the queue and not run out since; of rows of several queues the last are looked at. Index `leases_queue`. */
export async function hasLeases(db: Database, queueId: number): Promise<boolean> {
  const rows = await db.calm(
    `/* has leases */ (select 1 from postern.leases where queue_id = $1::int and expires_at > now() limit 1)
      union all
      select 1 from (select queue_ids from postern.leases where queue_id = 0 and expires_at > now() order by queue_id desc, expires_at desc limit $2::int) l
      where $1::int = any (l.queue_ids) limit 1`,
    [queueId, leasesLookedAt],
  )
  return rows.length > 0
}

/** Which of these leases (by their place in the list) are not over. Primary key of `messages`. */
export async function stillLeased(
  db: Database,
  leases: readonly { queueId: number; lane: number; position: number; token: number }[],
): Promise<Set<number>> {
  const rows = await db.hot<{ ord: number }>(
    `/* still leased */ select x.ord from unnest($1::int[], $2::smallint[], $3::bigint[], $4::bigint[])
        with ordinality x(queue_id, lane, position, token, ord)
      cross join lateral (
        select 1 from postern.messages m
        where m.queue_id = x.queue_id and m.lane = x.lane and m.position = x.position and m.lease_token = x.token limit 1) y`,
    [
      numbers(leases.map((lease) => lease.queueId)),
      numbers(leases.map((lease) => lease.lane)),
      numbers(leases.map((lease) => lease.position)),
      numbers(leases.map((lease) => lease.token)),
    ],
  )
  return new Set(rows.map((row) => Number(row.ord) - 1))
}

export type SubscriptionTrace = {
  id: number
  name: string
  disabled: DisabledReason | null
  circuit: CircuitState
  failures: number
  failing_since: Date | null
  held_until: Date | null
  concurrency: number
  rate_count: number | null
  rate_per_ms: number | null
  served: boolean
}

/** The webhooks of a queue, the oldest first. Index `subscriptions_queue`. */
export async function traceSubscriptions(db: Database, queueId: number, limit: number): Promise<SubscriptionTrace[]> {
  return await db.calm<SubscriptionTrace>(
    `/* trace subscriptions */ select s.id, s.name, s.disabled, s.circuit, s.failures, s.failing_since, s.held_until, s.concurrency,
        s.rate_count, s.rate_per_ms, coalesce(g.alive_until > now(), false) as served
      from postern.subscriptions s left join postern.gateways g on g.id = s.owner where s.queue_id = $1::int order by s.id limit $2::int`,
    [queueId, limit],
  )
}

export type AttemptTrace = {
  subscription: string
  attempt: number
  at: Date
  succeeded: boolean
  status: number | null
  duration_ms: number
  error: string | null
  next_attempt_at: Date | null
}

/**
 * The calls for one message among the newest `newest` of each of these webhooks, oldest first: there is no index over messages, which
 * every attempt would have to pay for. Index `attempts_subscription`.
 */
const attemptsText = `/* attempts of message */
select s.name as subscription, a.attempt, a.at, a.succeeded, a.status, a.duration_ms, a.error, a.next_attempt_at
from (select id, name from postern.subscriptions where queue_id = $1::int order by id limit $3::int) s
cross join lateral (
  select * from (
    select id, message_id, attempt, at, succeeded, status, duration_ms, error, next_attempt_at from postern.attempts
    where subscription_id = s.id order by subscription_id desc, id desc limit $4::int) n
  where n.message_id = $2::bigint) a
order by a.at, a.id limit 200`

export async function attemptsOfMessage(
  db: Database,
  queueId: number,
  id: number,
  subscriptions: number,
  newest: number,
): Promise<AttemptTrace[]> {
  return await db.calm<AttemptTrace>(attemptsText, [queueId, id, subscriptions, newest])
}

/** When and how it was published, while its topic keeps it. Primary key of `topic_log`. */
export async function publishedAs(
  db: Database,
  id: number,
): Promise<{ at: Date; topic: string; routing_key: string } | null> {
  const [row] = await db.calm<{ at: Date; topic: string; routing_key: string }>(
    `/* published as */ select l.published_at as at, t.name as topic, l.routing_key from postern.topic_log l
      join postern.topics t on t.id = l.topic_id where l.id = $1::bigint`,
    [id],
  )
  return row ?? null
}

/** What keys and webhooks are called: the name of an API key, the id of a subscription. null: gone. */
export async function holderName(db: Database, of: { key: string } | { subscription: number }): Promise<string | null> {
  const [row] =
    'key' in of
      ? await db.calm<{ name: string }>('/* key name */ select name from postern.api_keys where id = $1', [of.key])
      : await db.calm<{ name: string }>(
          '/* subscription name */ select name from postern.subscriptions where id = $1::int',
          [of.subscription],
        )
  return row?.name ?? null
}
