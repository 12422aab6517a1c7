/** Queues and what is in them: settings, counts and rates. */
import type { Queue, QueueCounts, QueueSettings, Work } from '../model/index.ts'
import { type Database, numbers, type Parameter, texts } from './client.ts'

type QueueRow = {
  id: number
  name: string
  order: Queue['order']
  lease_ms: number
  max_attempts: number
  delay_ms: number
  ttl_ms: number
  backoff_base_ms: number | null
  backoff_max_ms: number | null
  backoff_factor: number | null
  backoff_jitter: number | null
  dead_letter_queue: string | null
  dead_letter_expired: boolean
  max_messages: number | null
  max_bytes: number | null
  overflow: Queue['overflow']
  dedup_window_ms: number
  max_leased: number | null
  paused: boolean
  on_dead: Queue['onDead']
  fair: boolean
  backlog: boolean
  created_at: Date
  updated_at: Date
}

const columns = `q.*, (select t.name from postern.queues t where t.id = q.dead_letter_queue_id) as dead_letter_queue`

/**
 * Inserts the queue, or changes the columns given and leaves the others; two puts of one name meet in the unique index.
 * No row comes back when the order would change or the dead-letter queue is not there (its row is locked for key share).
 */
const putText = `/* put queue */
with t as materialized (select id from postern.queues where name = $9 and not backlog for key share),
u as (
  insert into postern.queues as q (name, "order", lease_ms, max_attempts, delay_ms, ttl_ms, backoff_base_ms, backoff_max_ms, backoff_factor,
    backoff_jitter, dead_letter_queue_id, dead_letter_expired, max_messages, max_bytes, overflow, dedup_window_ms, max_leased, paused,
    on_dead, fair)
  select $1, $2, $3::int, $4::smallint, $5::bigint, $6::bigint, ($7::float8[])[1], ($7::float8[])[2], ($7::float8[])[3], ($7::float8[])[4],
    (select id from t), $10::boolean, $11::bigint, $12::bigint, $13, $14::bigint, $15::int, $16::boolean, $17, $18::boolean
  where $9::text is null or exists (select 1 from t)
  on conflict (name) do update set
    lease_ms = case when 'leaseMs' = any (g.given) then excluded.lease_ms else q.lease_ms end,
    max_attempts = case when 'maxAttempts' = any (g.given) then excluded.max_attempts else q.max_attempts end,
    delay_ms = case when 'delayMs' = any (g.given) then excluded.delay_ms else q.delay_ms end,
    ttl_ms = case when 'ttlMs' = any (g.given) then excluded.ttl_ms else q.ttl_ms end,
    backoff_base_ms = case when 'backoff' = any (g.given) then excluded.backoff_base_ms else q.backoff_base_ms end,
    backoff_max_ms = case when 'backoff' = any (g.given) then excluded.backoff_max_ms else q.backoff_max_ms end,
    backoff_factor = case when 'backoff' = any (g.given) then excluded.backoff_factor else q.backoff_factor end,
    backoff_jitter = case when 'backoff' = any (g.given) then excluded.backoff_jitter else q.backoff_jitter end,
    dead_letter_queue_id = case when 'deadLetterQueue' = any (g.given) then excluded.dead_letter_queue_id else q.dead_letter_queue_id end,
    dead_letter_expired = case when 'deadLetterExpired' = any (g.given) then excluded.dead_letter_expired else q.dead_letter_expired end,
    max_messages = case when 'maxMessages' = any (g.given) then excluded.max_messages else q.max_messages end,
    max_bytes = case when 'maxBytes' = any (g.given) then excluded.max_bytes else q.max_bytes end,
    overflow = case when 'overflow' = any (g.given) then excluded.overflow else q.overflow end,
    dedup_window_ms = case when 'dedupWindowMs' = any (g.given) then excluded.dedup_window_ms else q.dedup_window_ms end,
    max_leased = case when 'maxLeased' = any (g.given) then excluded.max_leased else q.max_leased end,
    paused = case when 'paused' = any (g.given) then excluded.paused else q.paused end,
    on_dead = case when 'onDead' = any (g.given) then excluded.on_dead else q.on_dead end,
    fair = case when 'fair' = any (g.given) then excluded.fair else q.fair end,
    updated_at = case when cardinality(g.given) > 0 then now() else q.updated_at end
    where (not 'order' = any (g.given) or q."order" = excluded."order") and not q.backlog
  returning q.*, xmax = 0 as created)
select ${columns}, q.created from u q`.replaceAll('g.given', '$8::text[]')

/** null: the order may not change, or there is no such dead-letter queue. `given` names the settings that the caller gave. */
export async function putQueue(
  db: Database,
  name: string,
  settings: QueueSettings,
  given: readonly (keyof QueueSettings)[],
): Promise<{ queue: Queue; created: boolean } | null> {
  const { backoff } = settings
  const parameters: Parameter[] = [
    name,
    settings.order,
    settings.leaseMs,
    settings.maxAttempts,
    settings.delayMs,
    settings.ttlMs,
    backoff ? numbers([backoff.baseMs, backoff.maxMs, backoff.factor, backoff.jitter]) : null,
    texts(given),
    settings.deadLetterQueue,
    settings.deadLetterExpired,
    settings.maxMessages,
    settings.maxBytes,
    settings.overflow,
    settings.dedupWindowMs,
    settings.maxLeased,
    settings.paused,
    settings.onDead,
    settings.fair,
  ]
  const [row] = await db.calm<QueueRow & { created: boolean }>(putText, parameters)
  return row ? { queue: queueFrom(row), created: row.created } : null
}

/** In no order; names that are not there are left out. Index `queues_name`. */
export async function queuesByName(db: Database, names: readonly string[]): Promise<Queue[]> {
  const rows = await db.calm<QueueRow>(
    `/* queues by name */ select ${columns} from postern.queues q where q.name = any ($1::text[])`,
    [texts(names)],
  )
  return rows.map(queueFrom)
}

/** The same by id. */
export async function queuesById(db: Database, ids: readonly number[]): Promise<Queue[]> {
  const rows = await db.calm<QueueRow>(
    `/* queues by id */ select ${columns} from postern.queues q where q.id = any ($1::int[])`,
    [numbers(ids)],
  )
  return rows.map(queueFrom)
}

/** Ordered by name, after `afterName`, without backlogs. Index `queues_name`. */
export async function listQueues(db: Database, afterName: string, limit: number): Promise<Queue[]> {
  const rows = await db.calm<QueueRow>(
    `/* list queues */ select ${columns} from postern.queues q where q.name > $1 and not q.backlog order by q.name limit $2::int`,
    [afterName, limit],
  )
  return rows.map(queueFrom)
}

/** What keeps a queue from being deleted. `letters`: its dead ones. */
export type QueueContent = { messages: boolean; letters: boolean }

/**
 * The lock on the row waits for sends and moves that hold it for key share; after it, each look is a fresh one, so a
 * send that was acknowledged is seen. What the queue held is swept up later: its id never comes again.
 */
export async function deleteQueue(
  db: Database,
  name: string,
  force: boolean,
): Promise<{ id: number; deleted: boolean; holds: QueueContent } | null> {
  return await db.transaction(async (query) => {
    // Before the queue, as whoever binds it does.
    await query(
      `/* lock topics */ select t.id from postern.topics t where t.id in (
          select b.topic_id from postern.bindings b join postern.queues q on q.id = b.queue_id where q.name = $1) order by t.id for update`,
      [name],
    )
    const [queue] = await query<{ id: number }>(
      '/* lock queue */ select id from postern.queues where name = $1 for update',
      [name],
    )
    if (!queue) return null
    const [holds = { messages: false, letters: false }] = await query<QueueContent>(
      `/* is anything in it */ select exists (select 1 from postern.messages where queue_id = $1::int and (lease_token <> 0 or expires_at > now()))
        or exists (select 1 from postern.scheduled where queue_id = $1::int)
        or exists (select 1 from postern.waiting where queue_id = $1::int) as messages,
        exists (select 1 from postern.dead where queue_id = $1::int) as letters`,
      [queue.id],
    )
    if ((holds.messages || holds.letters) && !force) return { id: queue.id, deleted: false, holds }
    await query(
      '/* forget as dead-letter queue */ update postern.queues set dead_letter_queue_id = null where dead_letter_queue_id = $1::int',
      [queue.id],
    )
    await query(
      `/* forget bindings */ with b as (delete from postern.bindings where queue_id = $1::int returning topic_id)
        update postern.topics set version = version + 1 where id in (select topic_id from b)`,
      [queue.id],
    )
    await query(
      `/* forget subscriptions */ with s as (delete from postern.subscriptions where queue_id = $1::int returning id)
        delete from postern.subscription_secrets where subscription_id in (select id from s)`,
      [queue.id],
    )
    await query(
      `/* delete queue */ with b as (delete from postern.blocked_keys where queue_id = $1::int) delete from postern.queues where id = $1::int`,
      [queue.id],
    )
    return { id: queue.id, deleted: true, holds }
  })
}

/**
 * Exact, from the rows: the cost grows with what the queue holds. What waits behind its key counts as ready. Primary keys and
 * `scheduled_queue`.
 */
const countText = `/* count */
select x.id, m.ready + w.ready as ready, m.leased, s.delayed, d.dead, greatest(m.oldest_ready_age_s, w.oldest_ready_age_s) as oldest_ready_age_s
from unnest($1::int[]) x(id)
cross join lateral (
  select count(*) filter (where lease_token = 0 and expires_at > now()) as ready, count(*) filter (where lease_token <> 0) as leased,
    coalesce(date_part('epoch', now() - min(enqueued_at) filter (where lease_token = 0 and expires_at > now())), 0) as oldest_ready_age_s
  from postern.messages where queue_id = x.id) m
cross join lateral (select count(*) as delayed from postern.scheduled where queue_id = x.id) s
cross join lateral (select count(*) as dead from postern.dead where queue_id = x.id) d
cross join lateral (
  select count(*) as ready, coalesce(date_part('epoch', now() - min(enqueued_at)), 0) as oldest_ready_age_s from postern.waiting where queue_id = x.id) w`

export type Counted = QueueCounts & { id: number; oldestReadyAgeS: number }

export async function countMessages(db: Database, queueIds: readonly number[]): Promise<Counted[]> {
  const rows = await db.calm<QueueCounts & { id: number; oldest_ready_age_s: number }>(countText, [numbers(queueIds)])
  return rows.map(({ oldest_ready_age_s, ...row }) => ({ ...row, oldestReadyAgeS: Math.max(0, oldest_ready_age_s) }))
}

export type Rate = Work & { queueId: number; sent: number; settled: number }

/** What this gateway sent and settled since it last said so; one row a gateway, queue and moment, never updated. */
export async function recordRates(db: Database, gateway: string, rates: readonly Rate[]): Promise<void> {
  await db.hot(
    `/* record rates */ insert into postern.rates (at, queue_id, gateway, sent, settled, receives, received, busy_ms)
      select clock_timestamp(), u.q, $2::text, u.s, u.t, u.n, u.m, u.b
      from unnest($1::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::bigint[]) u(q, s, t, n, m, b)`,
    [
      numbers(rates.map((rate) => rate.queueId)),
      gateway,
      numbers(rates.map((rate) => rate.sent)),
      numbers(rates.map((rate) => rate.settled)),
      numbers(rates.map((rate) => rate.receives)),
      numbers(rates.map((rate) => rate.received)),
      numbers(rates.map((rate) => Math.round(rate.busyMs))),
    ],
  )
}

/**
 * Messages sent to and settled from a queue in the last minute, and what its consumers did in the last two, as far as gateways have
 * said so. Primary key of `rates`.
 */
export async function ratesOf(db: Database, queueId: number): Promise<Rate> {
  const [row] = await db.calm<Omit<Rate, 'queueId'>>(
    `/* rates */ select coalesce(sum(sent) filter (where at > now() - interval '1 minute'), 0)::int as sent,
        coalesce(sum(settled) filter (where at > now() - interval '1 minute'), 0)::int as settled,
        coalesce(sum(receives), 0)::int as receives, coalesce(sum(received), 0)::int as received, coalesce(sum(busy_ms), 0)::float8 as "busyMs"
      from postern.rates where queue_id = $1::int and at > now() - interval '2 minutes'`,
    [queueId],
  )
  return { queueId, ...(row ?? { sent: 0, settled: 0, receives: 0, received: 0, busyMs: 0 }) }
}

function queueFrom(row: QueueRow): Queue {
  return {
    id: row.id,
    name: row.name,
    order: row.order,
    leaseMs: row.lease_ms,
    maxAttempts: row.max_attempts,
    delayMs: row.delay_ms,
    ttlMs: row.ttl_ms,
    backoff:
      row.backoff_base_ms === null
        ? null
        : {
            baseMs: row.backoff_base_ms,
            maxMs: row.backoff_max_ms ?? row.backoff_base_ms,
            factor: row.backoff_factor ?? 1,
            jitter: row.backoff_jitter ?? 0,
          },
    deadLetterQueue: row.dead_letter_queue,
    deadLetterExpired: row.dead_letter_expired,
    maxMessages: row.max_messages,
    maxBytes: row.max_bytes,
    overflow: row.overflow,
    dedupWindowMs: row.dedup_window_ms,
    maxLeased: row.max_leased,
    paused: row.paused,
    onDead: row.on_dead,
    fair: row.fair,
    backlog: row.backlog,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}
