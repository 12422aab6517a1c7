/** Keyed queues: one message of each key is under way, the others wait in `waiting`; see `postern.elect` in the migrations. */
import { type Database, numbers, texts } from './client.ts'
import type { Appended } from './upkeep.ts'

/** A key of which nothing up to the place `after` in its order is left; 0: nothing is known. */
export type FreedKey = { queueId: number; key: string; after: number }

type Row = { queue_id: number; lane: number; position: number; due_in_ms: number | null }

/**
 * Moves up the next message of each key, if none is under way. Two at once: the key's lock lets one through, and the second finds
 * the first's. Primary key of `waiting`, indexes `messages_chain` and `scheduled_chain`.
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
