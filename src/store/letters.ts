/**
 * Reading messages a page at a time to ask a filter about them, and then deleting or redriving exactly those versions: a row that
 * was changed, leased or taken between the two is left as it is.
 */
import type { DeathReason, Headers } from '../model/index.ts'
import { type Database, numbers, texts } from './client.ts'
import type { FreedKey } from './keyed.ts'
import { bodyOf, bytesOf } from './log.ts'
import { deathHeaders, withoutDeathHeaders } from './move.ts'
import type { Appended } from './upkeep.ts'

export type LetterTable = 'dead' | 'messages' | 'waiting' | 'scheduled'
/** Where a redrive looks for letters, in this order: what waits behind its key moves up to the ready messages, not back. */
export type RedriveFrom = 'dead' | 'waiting' | 'messages'

export type LetterRow = {
  /** Where the row lies and which version of it this is: together they name what was read, and nothing later. */
  tid: string
  version: string
  /** Order within its table: two numbers to go on from. */
  first: number
  second: number
  key: string | null
  headers: Headers | null
  /** null unless bodies were asked for. */
  body: Buffer | null
  reason: DeathReason | null
  died_ms: number | null
}

export type LetterPlace = { first: number; second: number }

const rows = (table: LetterTable, first: string, where: string, order: string): string => {
  const shared = table === 'messages' || table === 'scheduled'
  return `/* read ${table} */
select * from (
  select x.*, sum(bytes) over (rows unbounded preceding) as running, row_number() over () as nth from (
    select ctid::text as tid, xmin::text as version, ${first} as first, position::float8 as second, key, headers,
      case when $6::boolean then ${shared ? bodyOf('s') : 's.body'} end as body, ${shared ? bytesOf('s') : 'octet_length(s.body)'} as bytes,
      ${table === 'dead' ? "reason, floor(date_part('epoch', died_at) * 1000) as died_ms" : 'null as reason, null::float8 as died_ms'}
    from postern.${table} s
    where ${table === 'waiting' ? 'queue_id + 0' : 'queue_id'} = $1::int and ${where} and case when $8::boolean then id else abs(position) end <= $4::bigint order by ${order} limit $5::int) x) y
where nth = 1 or running <= $7::bigint`
}

/** Primary keys, `scheduled_queue` and `waiting_place`. Ready messages only, and of `waiting` all. */
const readTexts: Record<LetterTable, string> = {
  dead: rows('dead', '0::float8', 'position > $3::float8::bigint and $2::float8 is not null', 'position'),
  messages: rows(
    'messages',
    'lane::float8',
    '(lane, position) > ($2::float8::smallint, $3::float8::bigint) and lease_token = 0 and expires_at > now()',
    'lane, position',
  ),
  waiting: rows('waiting', '0::float8', 'position + 0 > $3::float8::bigint and $2::float8 is not null', 'position + 0'),
  scheduled: rows(
    'scheduled',
    "date_part('epoch', due_at)",
    '(due_at, position) > (to_timestamp($2::float8), $3::float8::bigint)',
    'due_at, position',
  ),
}

export type LetterPage = { limit: number; maxBytes: number; withBody: boolean }
/** Only what has come to where it lies, or what was sent, by the time this position was drawn. */
export type UpTo = { position: number } | { id: number }

/**
 * The next messages after a place; fewer than `limit` when their bodies come to `maxBytes`: only an empty page is
 * the end. Begin at `browseStart`.
 */
export async function readLetters(
  db: Database,
  table: LetterTable,
  queueId: number,
  after: LetterPlace,
  upTo: UpTo,
  { limit, maxBytes, withBody }: LetterPage,
): Promise<LetterRow[]> {
  return await db.calm<LetterRow>(readTexts[table], [
    queueId,
    after.first,
    after.second,
    'id' in upTo ? upTo.id : upTo.position,
    limit,
    withBody,
    maxBytes,
    'id' in upTo,
  ])
}

const isChained = (table: LetterTable): boolean => table === 'messages' || table === 'scheduled'

/**
 * What somebody else has locked is in use, and stays. By ctid, then version. What waits behind its key is deleted under the key's lock: the
 * next of the key must not move up past a row whose deletion may yet come to nothing.
 */
const removeText = (table: LetterTable): string => `/* remove from ${table} */
with g as materialized (
  select ${table === 'waiting' ? 'postern.lock_keys(array_agg($3::int), array_agg(k))' : 'count(*)'} as n from unnest($4::text[]) k
  where $3::int > 0),
t as materialized (
  select x.tid from g cross join unnest($1::tid[], $2::text[]) u(tid, version) cross join lateral (
    select s.ctid as tid from postern.${table} s where s.ctid = u.tid and s.xmin::text = u.version limit 1 for update skip locked) x
  where coalesce(g.n, 0) >= 0),
d as (delete from postern.${table} where ctid = any (array(select tid from t)) returning key, ${isChained(table) ? 'chain' : 'null::bigint as chain'})
select count(*)::int as n, (jsonb_agg(distinct key) filter (where chain is not null))::text as freed from d`

const removeTexts: Record<LetterTable, string> = {
  dead: removeText('dead'),
  messages: removeText('messages'),
  waiting: removeText('waiting'),
  scheduled: removeText('scheduled'),
}

/** Deletes these versions of messages; how many, and the keys of which they were the first. */
export async function removeLetters(
  db: Database,
  table: LetterTable,
  queueId: number,
  letters: readonly Pick<LetterRow, 'tid' | 'version' | 'key'>[],
): Promise<{ count: number; freedKeys: string[] }> {
  const [row] = await db.hot<{ n: number; freed: string | null }>(removeTexts[table], [
    texts(letters.map((letter) => letter.tid)),
    texts(letters.map((letter) => letter.version)),
    queueId,
    texts(table === 'waiting' ? [...new Set(letters.map((letter) => letter.key))] : []),
  ])
  return { count: row?.n ?? 0, freedKeys: JSON.parse(row?.freed ?? '[]') as string[] }
}

/**
 * One step of a redrive: letters become ready as new messages with the ids they have (attempts from 0, the queue's ttl, their priority),
 * and the task's cursor and counters move with them, in one commit. Nothing happens unless the task is still this gateway's, running, and
 * where the gateway thought it was: so a step that is tried again after its answer was lost is not done twice. Whoever cancels the task
 * waits for the step under way. Two redrives of one queue meet at the letters' rows, which both lock in order; the second finds them gone.
 * The queues' rows are locked for key share, as in a send. At the first letter that a full queue does not take, the step ends, and the
 * cursor stays before it.
 * A letter that returns to its origin is as it was sent; one that goes elsewhere tells in its headers where it died.
 */
const redrive = (from: RedriveFrom): string => `/* redrive ${from} */
with k as materialized (
  select s.id from postern.tasks s where s.id = $1::int and s.owner = $2 and s.state = 'running' and s.at = '${from}'
    and s.at_first = $3::float8 and s.at_second = $4::float8::bigint for update),
i as materialized (
  select a.* from k cross join unnest($5::tid[], $6::text[], $7::int[], $8::float8[], $9::bigint[], $10::int[])
    with ordinality a(tid, version, target_id, first, second, seen, ord)),
${from === 'waiting' ? lockedWithTargets : ''}t as materialized (
  select i.ord, i.target_id, x.* from ${from === 'waiting' ? 'h cross join ' : ''}i cross join lateral (
    select s.ctid as tid, s.key, ${from === 'messages' ? bytesOf('s') : 'octet_length(s.body)'} as bytes from postern.${from} s
    where s.ctid = i.tid and s.xmin::text = i.version limit 1 for update) x${from === 'waiting' ? ' where coalesce(h.n, 0) >= 0' : ''}),
q as materialized (
  select z.* from (select distinct target_id from t) w cross join lateral (
    select y.id, y.name, y."order" = 'lifo' as lifo, y."order" = 'keyed' as keyed, y.ttl_ms, y.max_bytes
    from postern.queues y where y.id = w.target_id for key share) z),
c as materialized (
  select t.*, q.name as target, q.lifo, q.keyed, q.ttl_ms from t join q on q.id = t.target_id where q.max_bytes is null or t.bytes <= q.max_bytes),
a as materialized (
  select postern.admit_letters(array_agg(target_id order by ord), array_agg(bytes::bigint order by ord)) as taken, array_agg(ord order by ord) as ords from c),
f as materialized (select min(u.ord) as ord from a cross join unnest(a.ords, a.taken) u(ord, taken) where not u.taken),
e as materialized (select c.* from c cross join f where f.ord is null or c.ord < f.ord),
d as (
  delete from postern.${from} s using e where s.ctid = e.tid
  returning s.*, e.ord, e.target_id, e.target, e.lifo, e.ttl_ms, e.keyed and e.key is not null as chained),
g as materialized (select postern.lock_keys(array_agg(target_id), array_agg(key)) as n from e where keyed and key is not null),
n as materialized (
  select d.*, nextval('postern.message_position') * case when d.lifo then -1 else 1 end as fresh,
    ${from === 'dead' ? headersOfDead : headersOfReady} as new_headers, ${from === 'messages' ? bodyOf('d') : 'd.body'} as new_body
  from (select * from d order by ord) d cross join g where coalesce(g.n, 0) >= 0),
v as (
  insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, content_type, headers, body)
  select target_id, key, fresh, id, now(), lane | 1, enqueued_at, now() + ttl_ms * interval '1 ms', content_type, new_headers, new_body from n where chained),
m as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body)
  select target_id, lane | 1, fresh, id, enqueued_at, now() + ttl_ms * interval '1 ms', content_type, key, new_headers, new_body from n where not chained),
w as materialized (
  select (select count(*) from n) as moved, coalesce(f.ord - 1, (select count(*) from i)) as tried, f.ord is not null as full,
    (select c.target from c where c.ord = f.ord) as target, b.first, b.second, b.seen
  from f left join i b on b.ord = f.ord - 1),
u as (
  update postern.tasks s set
    at_first = case when w.full then coalesce(w.first, s.at_first) else $11::float8 end,
    at_second = case when w.full then coalesce(w.second, s.at_second) else $12::float8::bigint end,
    scanned = s.scanned + case when w.full then coalesce(w.seen, 0) else $13::bigint end,
    matched = s.matched + case when w.full then w.tried else $14::bigint end,
    moved = s.moved + w.moved, skipped = s.skipped + w.tried - w.moved,
    error = case when w.full then 'The queue ' || w.target || ' is full: what is left waits for room in it.' end,
    leased_until = now() + $15::bigint * interval '1 ms', updated_at = now()
  from k cross join w where s.id = k.id returning 1)
select w.moved::int as moved, w.full,
  (select jsonb_agg(x) from (
    select target_id as "queueId", lane | 1 as lane, min(fresh) as position from n where not chained group by target_id, lane | 1) x)::text as appended,
  (select jsonb_agg(x) from (
    select distinct target_id as "queueId", key, 0 as after from n where chained
    ${from === 'messages' ? 'union select queue_id, key, chain from n where chain is not null' : ''}) x)::text as freed,
  (select jsonb_agg(x) from (select target_id as "queueId", count(*)::int as count from n group by target_id) x)::text as arrived
from w cross join u`

/** As in `remove from waiting`; with the keys' locks in the queues that get them, so that there is one order for all. */
const lockedWithTargets = `h as materialized (
  select postern.lock_keys(array_agg(x.queue_id), array_agg(x.key)) as n from (
    select $17::int as queue_id, key from unnest($16::text[]) y(key)
    union select target_id, key from unnest($7::int[], $16::text[]) y(target_id, key)) x
  where exists (select 1 from k)),
`

const headersOfDead = `case when d.target_id = d.queue_id then d.headers else coalesce(d.headers, '{}') || ${deathHeaders(
  {
    reason: 'd.reason',
    queue: 'd.origin',
    attempts: 'd.attempts',
    error: 'd.last_error',
    at: 'd.died_at',
  },
)} end`
const headersOfReady = `case when d.headers ->> 'postern-dead-queue' = d.target then ${withoutDeathHeaders('d.headers')} else d.headers end`

const redriveTexts: Record<RedriveFrom, string> = {
  dead: redrive('dead'),
  waiting: redrive('waiting'),
  messages: redrive('messages'),
}

/** `seen`: how many letters were looked at, up to this one. `targetId` 0: there is no queue for it, it is skipped. */
export type MovingLetter = Pick<LetterRow, 'tid' | 'version' | 'first' | 'second' | 'key'> & {
  targetId: number
  seen: number
}

export type RedriveStep = {
  task: number
  gateway: string
  /** Where the letters lie. */
  queueId: number
  from: RedriveFrom
  at: LetterPlace
  /** In order; none in a dry run. */
  letters: readonly MovingLetter[]
  /** The last place looked at. */
  end: LetterPlace
  scanned: number
  matched: number
  aliveMs: number
}

export type Redriven = {
  moved: number
  full: boolean
  appended: Appended[]
  freed: FreedKey[]
  /** How many each queue got. */
  arrived: { queueId: number; count: number }[]
}

/** null: the task is not where the step begins, or not this gateway's. */
export async function redriveLetters(db: Database, step: RedriveStep): Promise<Redriven | null> {
  const { letters } = step
  type Row = { moved: number; full: boolean; appended: string | null; freed: string | null; arrived: string | null }
  const [row] = await db.hot<Row>(redriveTexts[step.from], [
    step.task,
    step.gateway,
    step.at.first,
    step.at.second,
    texts(letters.map((letter) => letter.tid)),
    texts(letters.map((letter) => letter.version)),
    numbers(letters.map((letter) => letter.targetId)),
    numbers(letters.map((letter) => letter.first)),
    numbers(letters.map((letter) => letter.second)),
    numbers(letters.map((letter) => letter.seen)),
    step.end.first,
    step.end.second,
    step.scanned,
    step.matched,
    step.aliveMs,
    ...(step.from === 'waiting' ? [texts(letters.map((letter) => letter.key)), step.queueId] : []),
  ])
  return (
    (row && {
      moved: row.moved,
      full: row.full,
      appended: JSON.parse(row.appended ?? '[]') as Appended[],
      freed: JSON.parse(row.freed ?? '[]') as FreedKey[],
      arrived: JSON.parse(row.arrived ?? '[]') as Redriven['arrived'],
    }) ??
    null
  )
}
