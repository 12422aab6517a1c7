/** Topics and their bindings: settings, and the routes by which a publish finds its queues. */
import type { Binding, Filter, Topic, TopicSettings } from '../model/index.ts'
import { type Database, numbers } from './client.ts'

type TopicRow = {
  id: number
  name: string
  version: number
  retention_ms: number
  dedup_window_ms: number
  created_at: Date
  updated_at: Date
}

/** Creates the topic or changes the columns given; two puts of one name meet in the unique index. */
const putText = `/* put topic */
insert into postern.topics as t (name, retention_ms, dedup_window_ms) values ($1, $2::bigint, $3::bigint)
on conflict (name) do update set
  retention_ms = case when 'retentionMs' = any ($4::text[]) then excluded.retention_ms else t.retention_ms end,
  dedup_window_ms = case when 'dedupWindowMs' = any ($4::text[]) then excluded.dedup_window_ms else t.dedup_window_ms end,
  version = t.version + 1, updated_at = case when cardinality($4::text[]) > 0 then now() else t.updated_at end
returning *, xmax = 0 as created`

export async function putTopic(
  db: Database,
  name: string,
  settings: TopicSettings,
  given: readonly string[],
): Promise<{ topic: Topic; created: boolean }> {
  const [row] = await db.calm<TopicRow & { created: boolean }>(putText, [
    name,
    settings.retentionMs,
    settings.dedupWindowMs,
    `{${given.join(',')}}`,
  ])
  if (!row) throw new Error('put topic: no row')
  return { topic: topicFrom(row), created: row.created }
}

export async function findTopic(db: Database, name: string): Promise<Topic | null> {
  const [row] = await db.calm<TopicRow>('/* find topic */ select * from postern.topics where name = $1', [name])
  return row ? topicFrom(row) : null
}

/** Ordered by name, after `afterName`. Index `topics_name`. */
export async function listTopics(db: Database, afterName: string, limit: number): Promise<Topic[]> {
  const rows = await db.calm<TopicRow>(
    '/* list topics */ select * from postern.topics where name > $1 order by name limit $2::int',
    [afterName, limit],
  )
  return rows.map(topicFrom)
}

/**
 * With its bindings, subscriptions and their backlogs. Without `force` only when no backlog holds anything. The locks on the
 * backlogs' rows wait for publishes under way, so what they stored is seen.
 */
export async function deleteTopic(
  db: Database,
  name: string,
  force: boolean,
): Promise<{ id: number; backlogIds: number[]; deleted: boolean } | null> {
  return await db.transaction(async (query) => {
    const [topic] = await query<{ id: number }>(
      '/* lock topic */ select id from postern.topics where name = $1 for update',
      [name],
    )
    if (!topic) return null
    const backlogs = await query<{ id: number; filled: boolean }>(
      `/* lock backlogs */ select q.id from postern.queues q
        where q.id in (select queue_id from postern.subscriptions where topic_id = $1::int) order by q.id for update`,
      [topic.id],
    )
    const backlogIds = backlogs.map((row) => row.id)
    const [content] = await query<{ filled: boolean }>(
      `/* is anything in them */ select exists (select 1 from postern.messages where queue_id = any ($1::int[]))
        or exists (select 1 from postern.scheduled where queue_id = any ($1::int[])) or exists (select 1 from postern.dead where queue_id = any ($1::int[])) as filled`,
      [`{${backlogIds.join(',')}}`],
    )
    if (content?.filled && !force) return { id: topic.id, backlogIds, deleted: false }
    await query(
      `/* delete topic */ with b as (delete from postern.bindings where topic_id = $1::int),
        s as (delete from postern.subscriptions where topic_id = $1::int returning id),
        x as (delete from postern.subscription_secrets where subscription_id in (select id from s)),
        q as (delete from postern.queues where id = any ($2::int[]))
        delete from postern.topics where id = $1::int`,
      [topic.id, `{${backlogIds.join(',')}}`],
    )
    return { id: topic.id, backlogIds, deleted: true }
  })
}

/** One place to which a topic's messages may go. `subscription`: its name, when it is one's backlog. */
export type RouteRow = {
  name: string
  subscription: boolean
  queue: string
  queueId: number
  /** The order of the queue, which is fixed. */
  lifo: boolean
  pattern: string
  filter: Filter | null
}

export type Routes = { topic: Topic; version: number; routes: RouteRow[] }

type JoinedRow = TopicRow & {
  route: {
    name: string
    subscription: boolean
    queue: string
    queue_id: number
    lifo: boolean
    pattern: string
    filter: Filter | null
  }[]
}

/** All that a publish needs to know of a topic, as of one moment. Primary keys, `subscriptions_topic`. */
const routesText = `/* routes */
select t.*, coalesce((select jsonb_agg(jsonb_build_object('name', r.name, 'subscription', r.subscription, 'queue', q.name, 'queue_id', r.queue_id,
    'lifo', q."order" = 'lifo', 'pattern', r.pattern, 'filter', r.filter) order by r.subscription, r.name)
  from (
    select name, false as subscription, queue_id, pattern, filter from postern.bindings where topic_id = t.id
    union all select name, true, queue_id, pattern, filter from postern.subscriptions where topic_id = t.id) r
  join postern.queues q on q.id = r.queue_id), '[]') as route
from postern.topics t where t.name = $1`

export async function routesOf(db: Database, name: string): Promise<Routes | null> {
  const [row] = await db.calm<JoinedRow>(routesText, [name])
  if (!row) return null
  const routes = row.route.map(({ queue_id: queueId, ...route }) => ({ ...route, queueId }))
  return { topic: topicFrom(row), version: row.version, routes }
}

type BindingRow = {
  name: string
  topic: string
  queue: string
  pattern: string
  filter: Filter | null
  created_at: Date
  updated_at: Date
}

/**
 * The rows of the topic and of the queue are locked, so neither goes away meanwhile; the topic's version goes up in the same
 * commit. No row comes back when one of them is not there, or the topic has `most` interests already.
 */
const putBindingText = `/* put binding */
with t as (update postern.topics set version = version + 1 where name = $1 returning id, name),
q as materialized (select id, name from postern.queues where name = $3 and not backlog for key share),
n as materialized (
  select (select count(*) from postern.bindings b join t on t.id = b.topic_id where b.name <> $2) + (select count(*) from postern.subscriptions s join t on t.id = s.topic_id) as n),
b as (
  insert into postern.bindings as x (topic_id, name, queue_id, pattern, filter)
  select t.id, $2, q.id, $4, $5::text::jsonb from t cross join q where (select n.n from n) < $6::int
  on conflict (topic_id, name) do update set queue_id = excluded.queue_id, pattern = excluded.pattern, filter = excluded.filter, updated_at = now()
  returning *, xmax = 0 as created)
select b.name, t.name as topic, q.name as queue, b.pattern, b.filter, b.created_at, b.updated_at, b.created from b cross join t cross join q`

export async function putBinding(
  db: Database,
  binding: Pick<Binding, 'topic' | 'name' | 'queue' | 'pattern' | 'filter'>,
  most: number,
): Promise<{ binding: Binding; created: boolean } | null> {
  const [row] = await db.calm<BindingRow & { created: boolean }>(putBindingText, [
    binding.topic,
    binding.name,
    binding.queue,
    binding.pattern,
    binding.filter === null ? null : JSON.stringify(binding.filter),
    most,
  ])
  return row ? { binding: bindingFrom(row), created: row.created } : null
}

const bindingColumns = `b.name, t.name as topic, q.name as queue, b.pattern, b.filter, b.created_at, b.updated_at
  from postern.topics t join postern.bindings b on b.topic_id = t.id join postern.queues q on q.id = b.queue_id`

/** Of one topic, ordered by name, after `afterName`; with `name`, that one only. */
export async function listBindings(
  db: Database,
  topic: string,
  { name, afterName, limit }: { name: string | null; afterName: string; limit: number },
): Promise<Binding[]> {
  const rows = await db.calm<BindingRow>(
    `/* list bindings */ select ${bindingColumns} where t.name = $1 and ($2::text is null or b.name = $2) and b.name > $3 order by b.name limit $4::int`,
    [topic, name, afterName, limit],
  )
  return rows.map(bindingFrom)
}

export async function deleteBinding(db: Database, topic: string, name: string): Promise<boolean> {
  const rows = await db.calm(
    `/* delete binding */ with t as materialized (select id from postern.topics where name = $1 for update),
      b as (delete from postern.bindings b using t where b.topic_id = t.id and b.name = $2 returning b.topic_id)
      update postern.topics set version = version + 1 where id in (select topic_id from b) returning 1`,
    [topic, name],
  )
  return rows.length > 0
}

/**
 * Deletes bodies whose retention is over and to which no copy refers any more, walking from `after`. A copy that moves between
 * tables at this moment is seen in one of them, since this statement has one snapshot; new references come from publishing only.
 * Indexes `topic_log_keep_until`, `messages_log`, `scheduled_log`.
 */
const trimText = `/* trim topic log */
with s as materialized (
  select id, keep_until, date_part('epoch', keep_until) as at from postern.topic_log
  where keep_until <= now() and (keep_until, id) > (to_timestamp($1::float8), $2::bigint) order by keep_until, id limit $3::int),
d as (
  delete from postern.topic_log l using s where l.id = s.id
    and (select true from postern.messages m where m.log_id = s.id limit 1) is null
    and (select true from postern.scheduled m where m.log_id = s.id limit 1) is null)
select at, id, (select count(*) from s)::int as n from s order by at desc, id desc limit 1`

export type LogCursor = { at: number; id: number }

/** Where to go on; null at the end of the walk. */
export async function trimTopicLog(db: Database, after: LogCursor, limit: number): Promise<LogCursor | null> {
  const [row] = await db.hot<LogCursor & { n: number }>(trimText, [after.at, after.id, limit])
  return row && row.n === limit ? { at: row.at, id: row.id } : null
}

const topicFrom = (row: TopicRow): Topic => ({
  id: row.id,
  name: row.name,
  retentionMs: row.retention_ms,
  dedupWindowMs: row.dedup_window_ms,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
})

const bindingFrom = (row: BindingRow): Binding => ({
  name: row.name,
  topic: row.topic,
  queue: row.queue,
  pattern: row.pattern,
  filter: row.filter,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
})

/** Primary key of `bindings`, `subscriptions_topic`. */
export async function countInterests(
  db: Database,
  topicIds: readonly number[],
): Promise<Map<number, { bindings: number; subscriptions: number }>> {
  const rows = await db.calm<{ id: number; bindings: number; subscriptions: number }>(
    `/* count interests */ select x.id, (select count(*) from postern.bindings where topic_id = x.id)::int as bindings,
        (select count(*) from postern.subscriptions where topic_id = x.id)::int as subscriptions from unnest($1::int[]) x(id)`,
    [numbers(topicIds)],
  )
  return new Map(rows.map(({ id, ...counts }) => [id, counts]))
}
