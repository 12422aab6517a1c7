/** Webhook subscriptions and their secrets, as callers see and change them. */
import type {
  DisabledReason,
  Filter,
  Rate,
  Retry,
  SigningSecret,
  Subscription,
  SubscriptionFormat,
  SubscriptionSettings,
  SubscriptionSource,
} from '../model/index.ts'
import { attemptsOf } from '../model/index.ts'
import { type Database, numbers, type Parameter } from './client.ts'

/** `number`: for statements; `version` goes up with every change by a caller. */
export type StoredSubscription = Subscription & {
  number: number
  queueId: number
  version: number
  queueMaxAttempts: number
  /** An ack lets others be leased: the queue has an order for each key, or a bound on its leases. */
  ackFrees: boolean
  /** Live ones, the newest first. */
  secrets: { secret: string; expiresMs: number | null }[]
  /** How long ago its endpoint was called last, as far as the log of attempts knows; null: never, or nobody needs to know. */
  calledMs: number | null
}

type Row = {
  id: number
  name: string
  title: string | null
  queue_id: number
  queue: string
  queue_max_attempts: number
  ack_frees: boolean
  topic: string | null
  pattern: string | null
  filter: Filter | null
  url: string
  format: SubscriptionFormat
  headers: Record<string, string>
  timeout_ms: number
  concurrency: number
  rate_count: number | null
  rate_per_ms: number | null
  retry: Retry
  max_attempts: number | null
  disabled: DisabledReason | null
  version: number
  circuit: Subscription['health']['circuit']
  failures: number
  failing_since: Date | null
  held_until: Date | null
  secrets: { secret: string; expires_ms: number | null }[]
  called_ms?: number | null
  created_at: Date
  updated_at: Date
}

const columns = `s.*, case when s.circuit = 'open' and s.held_until <= now() then 'half_open' else s.circuit end as circuit,
  q.name as queue, q.max_attempts as queue_max_attempts, q."order" = 'keyed' or q.max_leased is not null as ack_frees, t.name as topic, (
    select coalesce(jsonb_agg(jsonb_build_object('secret', x.secret, 'expires_ms', date_part('epoch', x.expires_at) * 1000) order by x.id desc), '[]') from postern.subscription_secrets x
    where x.subscription_id = s.id and (x.expires_at is null or x.expires_at > now())) as secrets
  from postern.subscriptions s join postern.queues q on q.id = s.queue_id left join postern.topics t on t.id = s.topic_id`

/**
 * By Postgres's clock, from the beginning of the call, which its gateway told. Entries are in the order in which calls ended, so the last to
 * begin is among as many as may be under way. Tests are bound by no rate. Index `attempts_subscription`.
 */
const calledMs = `case when s.rate_count is not null then (
    select date_part('epoch', clock_timestamp() - max(a.at)) * 1000 from (
      select at, message_id from postern.attempts where subscription_id = s.id order by subscription_id desc, id desc limit s.concurrency) a
    where a.message_id <> 0) end as called_ms`

const settingColumns = (settings: SubscriptionSettings): Parameter[] => [
  settings.name,
  settings.url,
  settings.format,
  JSON.stringify(settings.headers),
  settings.timeoutMs,
  settings.concurrency,
  settings.rate?.count ?? null,
  settings.rate?.perMs ?? null,
  JSON.stringify(settings.retry),
  settings.maxAttempts,
]

/**
 * A subscription on a queue locks the queue's row for key share, one on a topic raises the topic's version and brings its
 * backlog, all in one commit. No row comes back when the queue or topic is not there, or the topic has `most` interests already.
 */
const insertText = `/* insert subscription */
with t as (update postern.topics set version = version + 1 where name = $13 returning id),
n as materialized (
  select (select count(*) from postern.bindings b join t on t.id = b.topic_id) + (select count(*) from postern.subscriptions s join t on t.id = s.topic_id) as n),
b as (
  insert into postern.queues (name, "order", lease_ms, max_attempts, delay_ms, ttl_ms, dead_letter_expired, overflow, dedup_window_ms, paused, backlog)
  select $11, 'fifo', 30000, $16::smallint, 0, $17::bigint, false, 'reject', 0, false, true from t where (select n.n from n) < $18::int
  returning id),
q as materialized (
  select id from b union all select id from (select id from postern.queues where name = $12 and not backlog for key share) x),
s as (
  insert into postern.subscriptions (title, url, format, headers, timeout_ms, concurrency, rate_count, rate_per_ms, retry, max_attempts, name,
    queue_id, topic_id, pattern, filter)
  select $1, $2, $3, $4::text::jsonb, $5::int, $6::int, $7::int, $8::bigint, $9::text::jsonb, $10::smallint, $11,
    q.id, (select id from t), $14, $15::text::jsonb from q
  returning id)
insert into postern.subscription_secrets (subscription_id, secret) select id, $19 from s returning subscription_id as id`

export async function insertSubscription(
  db: Database,
  subscription: {
    id: string
    source: SubscriptionSource
    settings: SubscriptionSettings
    secret: string
    backlogTtlMs: number
  },
  most: number,
): Promise<StoredSubscription | null> {
  const { source, settings } = subscription
  const topic = 'topic' in source ? source : null
  const rows = await db.calm(insertText, [
    ...settingColumns(settings),
    subscription.id,
    'queue' in source ? source.queue : null,
    topic?.topic ?? null,
    topic?.pattern ?? null,
    topic?.filter ? JSON.stringify(topic.filter) : null,
    attemptsOf(settings),
    subscription.backlogTtlMs,
    most,
    subscription.secret,
  ])
  return rows.length > 0 ? await findSubscription(db, subscription.id) : null
}

export async function findSubscription(db: Database, id: string): Promise<StoredSubscription | null> {
  const [row] = await db.calm<Row>(`/* find subscription */ select ${columns} where s.name = $1`, [id])
  return row ? subscriptionFrom(row) : null
}

export async function subscriptionsByNumber(db: Database, ids: readonly number[]): Promise<StoredSubscription[]> {
  const rows = await db.hot<Row>(
    `/* subscriptions by number */ select ${calledMs}, ${columns} where s.id = any ($1::int[])`,
    [numbers(ids)],
  )
  return rows.map(subscriptionFrom)
}

/** In the order of creation, after number `after`. Primary key, `subscriptions_queue`, `subscriptions_topic`. */
export async function listSubscriptions(
  db: Database,
  of: { queue: string | null; topic: string | null },
  after: number,
  limit: number,
): Promise<StoredSubscription[]> {
  const rows = await db.calm<Row>(
    `/* list subscriptions */ select ${columns} where s.id > $1::bigint and ($2::text is null or q.name = $2) and ($3::text is null or t.name = $3)
      order by s.id limit $4::int`,
    [after, of.queue, of.topic, limit],
  )
  return rows.map(subscriptionFrom)
}

/**
 * Everything anew, as it should be; a topic's version and the backlog's limit follow in the same commit. Whoever changes a topic and
 * something of it locks the topic first.
 */
const updateText = `/* update subscription */
with z as materialized (
  select t.id from postern.topics t join postern.subscriptions x on x.topic_id = t.id where x.name = $11 for update of t),
s as (
  update postern.subscriptions set title = $1, url = $2, format = $3, headers = $4::text::jsonb, timeout_ms = $5::int, concurrency = $6::int,
    rate_count = $7::int, rate_per_ms = $8::bigint, retry = $9::text::jsonb, max_attempts = $10::smallint, pattern = $12, filter = $13::text::jsonb,
    version = version + 1, updated_at = now()
  where name = $11 and version = $15::bigint and (select count(*) from z) >= 0 returning id, queue_id, topic_id),
t as (update postern.topics set version = version + 1 where id in (select topic_id from s)),
q as (update postern.queues set max_attempts = $14::smallint where backlog and id in (select queue_id from s))
select id from s`

/** false: it has been changed since `version`, or is gone. */
export async function updateSubscription(
  db: Database,
  id: string,
  settings: SubscriptionSettings,
  interest: { pattern: string; filter: Filter | null } | null,
  version: number,
): Promise<boolean> {
  const rows = await db.calm(updateText, [
    ...settingColumns(settings),
    id,
    interest?.pattern ?? null,
    interest?.filter ? JSON.stringify(interest.filter) : null,
    attemptsOf(settings),
    version,
  ])
  return rows.length > 0
}

/** Enabling forgets how the endpoint has been doing. `by` guards a dispatcher's own decision: its gateway, and what it knew. false: no such row. */
export async function setDisabled(
  db: Database,
  id: number,
  disabled: DisabledReason | null,
  by: { gateway: string; version: number } | null = null,
): Promise<boolean> {
  const rows = await db.hot(
    `/* set disabled */ update postern.subscriptions set disabled = $2, version = version + 1, updated_at = now(),
        owner = case when $2::text is null then owner end, circuit = 'closed', failures = case when $2::text is null then 0 else failures end,
        failing_since = case when $2::text is null then null else failing_since end, held_until = null
      where id = $1::int and ($3::text is null or owner = $3 and version = $4::bigint) returning 1`,
    [id, disabled, by?.gateway ?? null, by?.version ?? null],
  )
  return rows.length > 0
}

/** With its secrets, and on a topic with its backlog, whose row waits for publishes under way. */
export async function deleteSubscription(
  db: Database,
  id: string,
): Promise<{ number: number; queueId: number; backlog: boolean } | null> {
  return await db.transaction(async (query) => {
    const [row] = await query<{ id: number; queue_id: number; topic_id: number | null }>(
      `/* delete subscription */ with z as materialized (
            select t.id from postern.topics t join postern.subscriptions x on x.topic_id = t.id where x.name = $1 for update of t),
          s as (delete from postern.subscriptions where name = $1 and (select count(*) from z) >= 0 returning id, queue_id, topic_id),
          x as (delete from postern.subscription_secrets where subscription_id in (select id from s)),
          t as (update postern.topics set version = version + 1 where id in (select topic_id from s))
        select * from s`,
      [id],
    )
    if (!row) return null
    await query('/* delete backlog */ delete from postern.queues where id = $1::int and backlog', [row.queue_id])
    return { number: row.id, queueId: row.queue_id, backlog: row.topic_id !== null }
  })
}

/**
 * The present secret ends after the grace (Postgres's clock), a new one takes its place; at most five are live, since all of them sign. The subscription's row is locked first,
 * so that of two at once the second finds the first's. false: no such subscription.
 */
export async function rotateSecret(db: Database, id: string, secret: string, graceMs: number): Promise<boolean> {
  return await db.transaction(async (query) => {
    const [row] = await query<{ id: number }>(
      '/* lock subscription */ update postern.subscriptions set version = version + 1, updated_at = now() where name = $1 returning id',
      [id],
    )
    if (!row) return false
    await query(
      `/* end secrets */ update postern.subscription_secrets set expires_at = now() + $2::bigint * interval '1 ms'
        where expires_at is null and subscription_id = $1::int`,
      [row.id, graceMs],
    )
    await query(
      `/* rotate secret */ with x as (
          delete from postern.subscription_secrets where subscription_id = $1::int and (expires_at <= now() or id not in (
            select id from postern.subscription_secrets where subscription_id = $1::int order by id desc limit 4)))
        insert into postern.subscription_secrets (subscription_id, secret) values ($1::int, $2)`,
      [row.id, secret],
    )
    return true
  })
}

/** Live ones, the newest first. */
export async function secretsOf(db: Database, number: number): Promise<SigningSecret[]> {
  const rows = await db.calm<{ secret: string; created_at: Date; expires_at: Date | null }>(
    `/* secrets */ select secret, created_at, expires_at from postern.subscription_secrets
      where subscription_id = $1::int and (expires_at is null or expires_at > now()) order by id desc`,
    [number],
  )
  return rows.map((row) => ({ secret: row.secret, createdAt: row.created_at, expiresAt: row.expires_at }))
}

const rateFrom = (row: Row): Rate | null =>
  row.rate_count === null || row.rate_per_ms === null ? null : { count: row.rate_count, perMs: row.rate_per_ms }

const subscriptionFrom = (row: Row): StoredSubscription => ({
  number: row.id,
  id: row.name,
  name: row.title,
  source:
    row.topic === null ? { queue: row.queue } : { topic: row.topic, pattern: row.pattern ?? '#', filter: row.filter },
  queue: row.queue,
  queueId: row.queue_id,
  queueMaxAttempts: row.queue_max_attempts,
  ackFrees: row.ack_frees,
  url: row.url,
  format: row.format,
  headers: row.headers,
  timeoutMs: row.timeout_ms,
  concurrency: row.concurrency,
  rate: rateFrom(row),
  retry: row.retry,
  maxAttempts: row.max_attempts,
  disabled: row.disabled,
  version: row.version,
  health: {
    circuit: row.circuit,
    failures: row.failures,
    failingSince: row.failing_since,
    heldUntil: row.held_until,
  },
  secrets: row.secrets.map((each) => ({ secret: each.secret, expiresMs: each.expires_ms })),
  calledMs: row.called_ms == null ? null : Math.max(0, row.called_ms),
  createdAt: row.created_at,
  updatedAt: row.updated_at,
})
