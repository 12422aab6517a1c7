/** Messages that come once more: dead letters of a queue, and what a topic has kept. */
import type { Headers } from '../model/index.ts'
import { type Database, numbers } from './client.ts'
import type { FreedKey } from './keyed.ts'
import type { Appended } from './upkeep.ts'

/** `freed`: keys whose next message may have to be moved up. */
export type Revived = { appended: Appended[]; freed: FreedKey[]; count: number }

/** Milliseconds since 1970. */
export type Span = { fromMs: number; toMs: number }

/**
 * Dead letters become ready again as new messages with the ids they have: attempts from 0, the queue's ttl, their priority. The
 * queue's row is locked for key share, as in a send. Two replays at once: each letter comes back once. Primary key of `dead`.
 */
const reviveText = `/* revive dead letters */
with q as materialized (select id, "order" = 'lifo' as lifo, "order" = 'keyed' or fair as keyed, ttl_ms from postern.queues where id = $1::int for key share),
t as materialized (
  select ctid as tid, key from postern.dead where queue_id = $1::int and exists (select 1 from q)
    and died_at between to_timestamp($2::float8 / 1000) and to_timestamp($3::float8 / 1000) and ($4::bigint is null or id = $4::bigint)
  order by queue_id, position limit $5::int for update skip locked),
d as (delete from postern.dead where ctid = any (array(select tid from t)) returning *),
g as materialized (
  select postern.lock_keys(array_agg(q.id), array_agg(t.key)) as n from t join q on q.keyed where t.key is not null),
n as materialized (
  select d.*, q.ttl_ms, q.keyed and d.key is not null as chained, nextval('postern.message_position') * case when q.lifo then -1 else 1 end as fresh
  from (select * from d order by position) d cross join q cross join g where coalesce(g.n, 0) >= 0),
v as (
  insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, content_type, headers, body)
  select queue_id, key, fresh, id, now(), lane | 1, enqueued_at, now() + ttl_ms * interval '1 ms', content_type, headers, body from n where chained),
m as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body)
  select queue_id, lane | 1, fresh, id, enqueued_at, now() + ttl_ms * interval '1 ms', content_type, key, headers, body from n where not chained)
select queue_id, lane | 1 as lane, min(fresh) filter (where not chained) as position, count(*)::int as n, jsonb_agg(distinct key) filter (where chained)::text as freed
from n group by queue_id, lane | 1`

type Row = { queue_id: number; lane: number; position: number | null; n: number; freed: string | null }

const appendedOf = (rows: readonly Row[]): Revived => ({
  appended: rows.flatMap(({ queue_id: queueId, lane, position }) =>
    position === null ? [] : [{ queueId, lane, position }],
  ),
  freed: rows.flatMap((row) =>
    (JSON.parse(row.freed ?? '[]') as string[]).map((key) => ({ queueId: row.queue_id, key, after: 0 })),
  ),
  count: rows.reduce((sum, row) => sum + row.n, 0),
})

export async function revive(db: Database, queueId: number, { fromMs, toMs }: Span, limit: number): Promise<Revived> {
  return appendedOf(await db.hot<Row>(reviveText, [queueId, fromMs, toMs, null, limit]))
}

export type LoggedRow = {
  id: number
  at: number
  routing_key: string
  content_type: string
  headers: Headers | null
  body: Buffer
}

/** What a topic has kept, oldest first, after (`at` seconds, `id`); at most `maxBytes` of bodies. Index `topic_log_published`. */
export async function readTopicLog(
  db: Database,
  topicId: number,
  { fromMs, toMs }: Span,
  after: { at: number; id: number },
  limit: number,
  maxBytes: number,
): Promise<LoggedRow[]> {
  return await db.calm<LoggedRow>(
    `/* read topic log */ select * from (
        select x.*, sum(octet_length(body)) over (rows unbounded preceding) as running, row_number() over () as nth from (
          select id, date_part('epoch', published_at) as at, routing_key, content_type, headers, body from postern.topic_log
          where topic_id = $1::int and published_at between to_timestamp($2::float8 / 1000) and to_timestamp($3::float8 / 1000)
            and (published_at, id) > (to_timestamp($4::float8), $5::bigint)
          order by published_at, id limit $6::int) x) y
      where nth = 1 or running <= $7::bigint`,
    [topicId, fromMs, toMs, after.at, after.id, limit, maxBytes],
  )
}

/** Kept messages become ready in one queue, with bodies of their own: a reference could outlive what it refers to. */
export async function republish(db: Database, queueId: number, ids: readonly number[]): Promise<Revived> {
  const rows = await db.hot<Row>(
    `/* republish */ with q as materialized (select id, ttl_ms from postern.queues where id = $1::int for key share),
      n as materialized (
        select q.id as queue_id, q.ttl_ms, l.*, nextval('postern.message_position') as fresh
        from q cross join unnest($2::bigint[]) with ordinality i(id, ord) cross join lateral (
          select z.id as log_id, z.lane, z.published_at, z.content_type, z.key, z.headers, z.body from postern.topic_log z where z.id = i.id limit 1) l),
      m as (
        insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body)
        select queue_id, lane, fresh, log_id, published_at, now() + ttl_ms * interval '1 ms', content_type, key, headers, body from n)
      select queue_id, lane, min(fresh) as position, count(*)::int as n, null::text as freed from n group by queue_id, lane`,
    [queueId, numbers(ids)],
  )
  return appendedOf(rows)
}
