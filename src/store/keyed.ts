/** Keyed queues: what is under way of a key is in `messages` or `scheduled`, the others wait in `waiting`; see `postern.elect` in the migrations. */
import type { DeathReason } from '../model/index.ts'
import { type Database, numbers, texts } from './client.ts'
import type { Appended } from './upkeep.ts'

/** A key of which nothing up to the place `after` in its order is left; 0: nothing is known; -1: forget what is known. */
export type FreedKey = { queueId: number; key: string; after: number }

type Row = { queue_id: number; lane: number; position: number; due_in_ms: number | null }

/**
 * Moves up the next message of each key, if none is under way. Two at once: the key's lock lets one through, and the second finds
 * the first's. Primary key of `waiting`, indexes `messages_of_key` and `scheduled_of_key`.
 */
export async function elect(
  db: Database,
  keys: readonly FreedKey[],
): Promise<{ appended: Appended[]; dueInMs: number[] }> {
  const rows = await db.hot<Row>('/* elect */ select * from postern.elect($1::int[], $2::text[], $3::bigint[])', [
    numbers(keys.map((each) => each.queueId)),
    texts(keys.map((each) => each.key)),
    numbers(keys.map((each) => each.after)),
  ])
  const ready = rows.filter((row) => row.due_in_ms === null)
  return {
    appended: ready.map((row) => ({ queueId: row.queue_id, lane: row.lane, position: row.position })),
    dueInMs: rows.flatMap((row) => row.due_in_ms ?? []),
  }
}

/** The next keys with waiting messages, after the given one, by skipping from one to the next. Primary key of `waiting`. */
const waitingText = `/* waiting keys */
with recursive w as (
  (select queue_id, key, 1 as n from postern.waiting where (queue_id, key) > ($1::int, $2) order by queue_id, key limit 1)
  union all
  select x.queue_id, x.key, w.n + 1 from w cross join lateral (
    select queue_id, key from postern.waiting y where (y.queue_id, y.key) > (w.queue_id, w.key) order by y.queue_id, y.key limit 1) x
  where w.n < $3::int)
select queue_id, key from w`

export async function waitingKeys(
  db: Database,
  after: { queueId: number; key: string },
  limit: number,
): Promise<{ queueId: number; key: string }[]> {
  const rows = await db.hot<{ queue_id: number; key: string }>(waitingText, [after.queueId, after.key, limit])
  return rows.map((row) => ({ queueId: row.queue_id, key: row.key }))
}

/**
 * A key that dead letters have stopped goes on: with them once more (`again`), or with the next. See `postern.unblock_key`. Elect
 * then. `gone`: none of the letters is with this queue's dead letters any more, and nothing has changed.
 */
export async function unblock(
  db: Database,
  queueId: number,
  key: string,
  again: boolean,
): Promise<'unblocked' | 'not blocked' | 'gone'> {
  const [row] = await db.hot<{ done: boolean | null }>(
    '/* unblock */ select postern.unblock_key($1::int, $2, $3::boolean) as done',
    [queueId, key, again],
  )
  return row?.done == null ? 'not blocked' : row.done ? 'unblocked' : 'gone'
}

export type KeyRow = {
  key: string
  waiting: number
  blocked_at: Date | null
  message_id: number | null
  reason: DeathReason | null
  last_error: string | null
}

/** Blocked keys after `afterKey`, in order, each with the first of its dead letters. Primary keys of `blocked_keys` and `waiting`. */
const blockedText = `/* blocked keys */
select distinct on (b.key) b.key, (select count(*) from postern.waiting w where w.queue_id = b.queue_id and w.key = b.key)::int as waiting, b.blocked_at, b.message_id, b.reason, b.last_error
from postern.blocked_keys b where b.queue_id = $1::int and b.key > $2 order by b.key, b.chain limit $3::int`

/** Keys with waiting messages, or blocked, by skipping from one to the next. */
const keysText = `/* keys */
with recursive w as (
  (select key, 1 as n from postern.waiting where queue_id = $1::int and key > $2 order by key limit 1)
  union all
  select x.key, w.n + 1 from w cross join lateral (
    select key from postern.waiting y where y.queue_id = $1::int and y.key > w.key order by y.key limit 1) x
  where w.n < $3::int)
select k.key, (select count(*) from postern.waiting x where x.queue_id = $1::int and x.key = k.key)::int as waiting,
  b.blocked_at, b.message_id, b.reason, b.last_error
from (select key from w union (select distinct key from postern.blocked_keys where queue_id = $1::int and key > $2 order by key limit $3::int)) k
left join lateral (
  select * from postern.blocked_keys x where x.queue_id = $1::int and x.key = k.key order by x.chain limit 1) b on true
order by k.key limit $3::int`

export async function listQueueKeys(
  db: Database,
  queueId: number,
  blocked: boolean,
  afterKey: string,
  limit: number,
): Promise<KeyRow[]> {
  return await db.calm<KeyRow>(blocked ? blockedText : keysText, [queueId, afterKey, limit])
}
