/** Schedules: settings, and the claim of those that are due. */
import type { Misfire, Schedule, ScheduleSettings } from '../model/index.ts'
import { type Database, texts } from './client.ts'

type Row = {
  name: string
  cron: string
  timezone: string
  queue: string | null
  topic: string | null
  routing_key: string | null
  content_type: string
  key: string | null
  headers: Record<string, string> | null
  body: Buffer
  priority: number
  delay_ms: number | null
  ttl_ms: number | null
  misfire: Misfire
  paused: boolean
  next_fire_at: Date | null
  last_fire_at: Date | null
  last_message_id: string | null
  last_error: string | null
  created_at: Date
  updated_at: Date
}

/** A schedule and the transaction's time, by which it is judged. */
export type ScheduleNow = { schedule: Schedule; nowMs: number }

const nowMs = `floor(date_part('epoch', now()) * 1000) as now_ms`

/** Milliseconds since 1970. */
export async function transactionTime(db: Database): Promise<number> {
  const [row] = await db.calm<{ now_ms: number }>(`/* transaction time */ select ${nowMs}`, [])
  if (!row) throw new Error('transaction time: no row')
  return row.now_ms
}

/**
 * Creates the schedule, or with `replaces` changes all of it but its history. The caller holds the row's lock when it replaces; of two
 * that create one name the second finds the first's row in the primary key. null: there is one, or no longer one.
 */
const putText = (replaces: boolean): string => `/* put schedule */
insert into postern.schedules as s (name, cron, timezone, queue, topic, routing_key, content_type, key, headers, body, priority, delay_ms, ttl_ms,
  misfire, paused, next_fire_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb, $10::bytea, $11::smallint, $12::bigint, $13::bigint, $14, $15::boolean, to_timestamp($16::float8 / 1000))
on conflict (name) do ${
  replaces
    ? `update set cron = excluded.cron, timezone = excluded.timezone, queue = excluded.queue, topic = excluded.topic, routing_key = excluded.routing_key,
  content_type = excluded.content_type, key = excluded.key, headers = excluded.headers, body = excluded.body, priority = excluded.priority,
  delay_ms = excluded.delay_ms, ttl_ms = excluded.ttl_ms, misfire = excluded.misfire, paused = excluded.paused, next_fire_at = excluded.next_fire_at,
  updated_at = now()`
    : 'nothing'
}
returning *`

export async function putSchedule(
  db: Database,
  name: string,
  { cron, timezone, target, message, misfire, paused }: ScheduleSettings,
  nextMs: number | null,
  replaces: boolean,
): Promise<Schedule | null> {
  const [row] = await db.calm<Row>(putText(replaces), [
    name,
    cron,
    timezone,
    'queue' in target ? target.queue : null,
    'topic' in target ? target.topic : null,
    'topic' in target ? target.routingKey : null,
    message.contentType,
    message.key,
    message.headers === null ? null : JSON.stringify(message.headers),
    message.body,
    message.priority,
    message.delayMs,
    message.ttlMs,
    misfire,
    paused,
    paused ? null : nextMs,
  ])
  return row ? scheduleFrom(row) : null
}

export async function findSchedule(db: Database, name: string): Promise<Schedule | null> {
  const [row] = await db.calm<Row>('/* find schedule */ select * from postern.schedules where name = $1', [name])
  return row ? scheduleFrom(row) : null
}

/** Ordered by name, after `afterName`; fewer than `limit` when their bodies are large, and `more` when there may be others. Primary key. */
export async function listSchedules(
  db: Database,
  afterName: string,
  limit: number,
): Promise<{ schedules: Schedule[]; more: boolean }> {
  const rows = await db.calm<Row & { found: number }>(
    `/* list schedules */ select * from (${bodiesSummed(
      'select * from postern.schedules where name > $1 order by name limit $2::int',
    )}) y where ${bodiesFit}`,
    [afterName, limit],
  )
  return { schedules: rows.map(scheduleFrom), more: isMore(rows, limit) }
}

/** Of bodies that are read together. */
export const schedulesBytes = 8 * 1024 * 1024
const bodiesSummed = (rows: string): string =>
  `select x.*, sum(octet_length(body)) over (rows unbounded preceding) as running, row_number() over () as nth, count(*) over () as found from (${rows}) x`
const bodiesFit = `nth = 1 or running <= ${schedulesBytes}`
const isMore = (rows: readonly { found: number }[], limit: number): boolean => {
  const found = rows[0]?.found ?? 0
  return found > rows.length || found === limit
}

/** Until the transaction ends nobody else changes it, and it does not fire. */
export async function lockSchedule(db: Database, name: string): Promise<ScheduleNow | null> {
  const [row] = await db.calm<Row & { now_ms: number }>(
    `/* lock schedule */ select *, ${nowMs} from postern.schedules where name = $1 for update`,
    [name],
  )
  return row ? { schedule: scheduleFrom(row), nowMs: row.now_ms } : null
}

export async function setPaused(
  db: Database,
  name: string,
  paused: boolean,
  nextMs: number | null,
): Promise<Schedule | null> {
  const [row] = await db.calm<Row>(
    `/* pause schedule */ update postern.schedules set paused = $2::boolean, next_fire_at = to_timestamp($3::float8 / 1000), updated_at = now()
      where name = $1 returning *`,
    [name, paused, nextMs],
  )
  return row ? scheduleFrom(row) : null
}

export async function deleteSchedule(db: Database, name: string): Promise<void> {
  await db.calm('/* delete schedule */ delete from postern.schedules where name = $1', [name])
}

/**
 * Milliseconds until the next fire, negative when one is due; null: none. Looks no farther back than so many seconds, because
 * before that may lie a day of index entries that vacuum could not remove. Index `schedules_next_fire`.
 */
export async function untilFire(db: Database, lookBackS: number): Promise<number | null> {
  const [row] = await db.hot<{ ms: number }>(
    `/* next fire */ select date_part('epoch', next_fire_at - clock_timestamp()) * 1000 as ms from postern.schedules
      where next_fire_at > now() - $1::float8 * interval '1 s' order by next_fire_at limit 1`,
    [lookBackS],
  )
  return row ? row.ms : null
}

/**
 * Schedules that are due, the earliest first, but for those `aside`; `more`: there may be others. Until the transaction ends no other gateway can claim them: it passes
 * over locked rows, and one that was fired meanwhile is read again and found to be due later. Index `schedules_next_fire`.
 */
export async function claimDue(
  db: Database,
  lookBackS: number,
  limit: number,
  aside: readonly string[] = [],
): Promise<{ due: ScheduleNow[]; more: boolean }> {
  const rows = await db.hot<Row & { now_ms: number; found: number }>(
    `/* claim due schedules */ select *, ${nowMs} from (${bodiesSummed(
      `select * from postern.schedules
        where next_fire_at > now() - $1::float8 * interval '1 s' and next_fire_at <= now() and name <> all ($3::text[])
        order by next_fire_at limit $2::int for update skip locked`,
    )}) y where ${bodiesFit}`,
    [lookBackS, limit, texts(aside)],
  )
  const due = rows.map((row) => ({ schedule: scheduleFrom(row), nowMs: row.now_ms }))
  return { due, more: isMore(rows, limit) }
}

export type FireRecord = {
  name: string
  nextMs: number | null
  /** null: nothing was sent. */
  fire: { atMs: number; messageId: string | null; error: string | null } | null
}

/** By whoever holds the rows' locks. Primary key. */
export async function recordFires(db: Database, records: readonly FireRecord[]): Promise<void> {
  const textOf = (value: number | null | undefined): string | null => (value == null ? null : String(value))
  await db.hot(
    `/* record fires */ update postern.schedules s set next_fire_at = to_timestamp(u.next_ms / 1000),
        last_fire_at = case when u.at_ms is null then s.last_fire_at else to_timestamp(u.at_ms / 1000) end,
        last_message_id = case when u.at_ms is null then s.last_message_id else u.message_id end,
        last_error = case when u.at_ms is null then s.last_error else u.error end
      from unnest($1::text[], $2::float8[], $3::float8[], $4::text[], $5::text[]) u(name, next_ms, at_ms, message_id, error)
      where s.name = u.name`,
    [
      texts(records.map(({ name }) => name)),
      texts(records.map(({ nextMs }) => textOf(nextMs))),
      texts(records.map(({ fire }) => textOf(fire?.atMs))),
      texts(records.map(({ fire }) => fire?.messageId ?? null)),
      texts(records.map(({ fire }) => fire?.error ?? null)),
    ],
  )
}

const scheduleFrom = (row: Row): Schedule => ({
  name: row.name,
  cron: row.cron,
  timezone: row.timezone,
  target: row.topic === null ? { queue: row.queue ?? '' } : { topic: row.topic, routingKey: row.routing_key ?? '' },
  message: {
    body: row.body,
    contentType: row.content_type,
    headers: row.headers,
    key: row.key,
    priority: row.priority,
    delayMs: row.delay_ms,
    ttlMs: row.ttl_ms,
  },
  misfire: row.misfire,
  paused: row.paused,
  nextFireAt: row.next_fire_at,
  lastFire:
    row.last_fire_at === null ? null : { at: row.last_fire_at, messageId: row.last_message_id, error: row.last_error },
  createdAt: row.created_at,
  updatedAt: row.updated_at,
})
