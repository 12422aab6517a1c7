/** Looking at messages without leasing them, and taking single ones out by id. */
import type { DeathReason, Headers, MessageState } from '../model/index.ts'
import type { Database } from './client.ts'
import { bodyOf } from './log.ts'

export type StoredRow = {
  id: number
  state: MessageState
  /** Order within the state: two numbers to go on from. */
  first: number
  second: number
  lane: number
  attempts: number
  content_type: string
  key: string | null
  headers: Headers | null
  body: Buffer | null
  enqueued_at: Date
  expires_at: Date
  due_at: Date | null
  leased_until: Date | null
  reason: DeathReason | null
  last_error: string | null
  died_at: Date | null
  origin: string | null
}

const common = (body: string): string =>
  `id, lane, attempts, content_type, key, headers, ${body} as body, enqueued_at, expires_at`
const alive = 'null::text as reason, null::text as last_error, null::timestamptz as died_at, null::text as origin'

const fromMessages = `select case when lease_token = 0 then 'ready' else 'leased' end as state, lane::float8 as first, position::float8 as second,
  ${common(bodyOf('messages'))}, null::timestamptz as due_at, case when lease_token = 0 then null else leased_until end as leased_until, ${alive} from postern.messages`
const fromScheduled = `select 'delayed' as state, date_part('epoch', due_at) as first, position::float8 as second,
  ${common(bodyOf('scheduled'))}, due_at, null::timestamptz as leased_until, ${alive} from postern.scheduled`
/** What waits behind its key is ready as far as its own state goes; it comes after what can be leased now. */
const fromWaiting = `select 'ready' as state, 100::float8 as first, position::float8 as second,
  ${common('body')}, null::timestamptz as due_at, null::timestamptz as leased_until, ${alive} from postern.waiting`
const fromDead = `select 'dead' as state, position::float8 as first, 0::float8 as second,
  ${common('body')}, null::timestamptz as due_at, null::timestamptz as leased_until, reason, last_error, died_at, origin from postern.dead`

/** In the order of handing out; of leased messages, as they lie. A row's bodies before it count against `$5` bytes. */
const page = (name: string, rows: string): string => `/* ${name} */
select * from (
  select x.*, sum(coalesce(octet_length(body), 0)) over (rows unbounded preceding) as running, row_number() over () as nth
  from (${rows}) x) y
where nth = 1 or running <= $5::bigint`

/** Primary keys of the three tables; `scheduled_queue` for delayed ones. */
const browseTexts: Record<MessageState, string> = {
  ready: page(
    'browse ready',
    `(${fromMessages} where queue_id = $1::int and (lane, position) > ($2::float8::smallint, $3::float8::bigint) and lease_token = 0
      and expires_at > now() order by lane, position limit $4::int)
    union all
    (${fromWaiting} where queue_id + 0 = $1::int and position + 0 > case when $2::float8 < 100 then 0 else $3::float8::bigint end
      order by queue_id + 0, position + 0 limit $4::int)
    limit $4::int`,
  ),
  leased: page(
    'browse leased',
    `${fromMessages} where queue_id = $1::int and (lane, position) > ($2::float8::smallint, $3::float8::bigint) and lease_token <> 0
      order by lane, position limit $4::int`,
  ),
  delayed: page(
    'browse delayed',
    `${fromScheduled} where queue_id = $1::int and (due_at, position) > (to_timestamp($2::float8), $3::float8::bigint)
      order by due_at, position limit $4::int`,
  ),
  dead: page(
    'browse dead',
    `${fromDead} where queue_id = $1::int and position > $2::float8::bigint and $3::float8 is not null order by position limit $4::int`,
  ),
}

/** Before everything in any state. */
export const browseStart = { first: -1, second: -Number.MAX_SAFE_INTEGER }

export async function browse(
  db: Database,
  queueId: number,
  state: MessageState,
  from: { first: number; second: number },
  limit: number,
  maxBytes: number,
): Promise<StoredRow[]> {
  return await db.calm<StoredRow>(browseTexts[state], [queueId, from.first, from.second, limit, maxBytes])
}

/** Where a message with this id may lie: its first place in any lane, or wherever it has moved. */
export const byId = (table: string): string =>
  table === 'messages'
    ? `queue_id = $1::int and (lane = any (array(select generate_series(0, 19)::smallint)) and position in ($2::bigint, -$2::bigint)
        or id = $2::bigint and id <> abs(position))`
    : 'queue_id = $1::int and id = $2::bigint'

export const inWaiting =
  '(queue_id + 0 = $1::int and position + 0 = $2::bigint or queue_id = $1::int and id = $2::bigint and id <> position)'

/** Primary key and `messages_moved`, `scheduled_id`, `dead_id`, `waiting_place`, `waiting_moved`. */
const findText = `/* find message */
select * from (${fromMessages} where ${byId('messages')}) m where leased_until is not null or expires_at > now()
union all ${fromScheduled} where ${byId('scheduled')}
union all ${fromDead} where ${byId('dead')}
union all ${fromWaiting} where ${inWaiting}
limit 1`

export async function findMessage(db: Database, queueId: number, id: number): Promise<StoredRow | null> {
  const [row] = await db.calm<StoredRow>(findText, [queueId, id])
  return row ?? null
}

/** In whatever state it is; whoever holds a lease on it finds it already settled. */
const removeText = `/* remove message */
with m as (delete from postern.messages where ${byId('messages')} returning key, chain),
s as (delete from postern.scheduled where ${byId('scheduled')} returning key, chain),
d as (delete from postern.dead where ${byId('dead')} returning 1),
w as (delete from postern.waiting where ${inWaiting} returning 1)
select (select count(*) from m)::int + (select count(*) from s)::int + (select count(*) from d)::int + (select count(*) from w)::int as n,
  coalesce((select key from m where chain is not null), (select key from s where chain is not null)) as freed_key`

/** `freedKey`: it was the first of its key, whose next message may move up. */
export async function removeMessage(
  db: Database,
  queueId: number,
  id: number,
): Promise<{ removed: boolean; freedKey: string | null }> {
  const [row] = await db.calm<{ n: number; freed_key: string | null }>(removeText, [queueId, id])
  return { removed: (row?.n ?? 0) > 0, freedKey: row?.freed_key ?? null }
}
