/**
 * The statement that stores new messages, put together from the parts that a batch needs: most batches have no dedup ids, delays, keys or
 * waiting receivers, and each part that is left out is a third to a twentieth of what a small batch costs.
 */
import { fence } from './fence.ts'
import { type Named, named } from './named.ts'

export type SendParts = {
  /** To one queue with max_messages or max_bytes, instead of to any number of queues that have none. */
  bounded: boolean
  /** Some queue has an order for each key, or turns. */
  keyed: boolean
  /** Some message has a dedup id. */
  dedup: boolean
  /** Some message is meant for a waiting receiver. Never when bounded. */
  hands: boolean
  /** Some message has a delay. Without it a queue that has one itself answers as if it were missing. */
  delays: boolean
}

const made = new Map<string, Named>()

/** The same object for the same parts. */
export function sendText(parts: SendParts): Named {
  const name = [parts.bounded, parts.keyed, parts.dedup, parts.hands, parts.delays].map(Number).join('')
  let text = made.get(name)
  if (!text) {
    text = named(statement(parts))
    made.set(name, text)
  }
  return text
}

const when = (part: boolean, text: string, otherwise = ''): string => (part ? text : otherwise)

/**
 * The queue's row is locked for key share, so a queue that is being deleted is either still there when the send commits
 * (and then is not empty) or answers `missing`. Two sends never wait for each other, except over the same dedup id, and
 * those are taken in one order everywhere. Served by the primary keys of `queues` and `dedup`.
 */
const unboundedQueues = ({ delays }: SendParts): string => `
  select o.slot, k.* from unnest($queue_ids::int[]) with ordinality o(id, slot) left join lateral (
    select ${settings} from postern.queues q
    where q.id = o.id and q.max_messages is null and q.max_bytes is null${when(!delays, ' and q.delay_ms = 0')} for key share) k on true`

/** One bounded queue: `admit` locks its row, so sends to it pass one at a time. */
const boundedQueue = ({ delays }: SendParts): string => `
  select 1 as slot, ${settings}, t.taken
  from (select postern.admit(($queue_ids::int[])[1], $bytes::bigint[], $dedup_ids::text[], $groups::int[]) as taken) t
  join postern.queues q on q.id = ($queue_ids::int[])[1] and t.taken is not null${when(!delays, ' and q.delay_ms = 0')}`

const settings = `q.id, q."order" = 'lifo' as lifo, q."order" = 'keyed' as keyed, q.fair, q.delay_ms, q.ttl_ms, q.dedup_window_ms,
      q.paused or q.max_leased is not null as closed`

/** What is said of each message, a column each; the values are arrays. */
const columnsOf = ({ keyed, dedup, hands, delays }: SendParts): [name: string, type: string][] => [
  ['slot', 'int'],
  ['lane', 'smallint'],
  ['ttl_ms', 'bigint'],
  ['content_type', 'text'],
  ['key', 'text'],
  ['headers', 'text'],
  ['body_from', 'int'],
  ['body_bytes', 'int'],
  ...(delays
    ? ([
        ['delay_ms', 'bigint'],
        ['deliver_at_ms', 'bigint'],
      ] as [string, string][])
    : []),
  ...(dedup ? ([['dedup', 'int']] as [string, string][]) : []),
  ...(hands
    ? ([
        ['hand_ms', 'int'],
        ['hand_fence', 'int'],
      ] as [string, string][])
    : []),
  ...(keyed
    ? ([
        ['nth_key', 'int'],
        ['nth', 'int'],
      ] as [string, string][])
    : []),
]

/**
 * A message is handed over (stored already leased) only when the queue may lease and, in this statement's snapshot, no
 * ready message lies before it. The result is arrays, in the order asked: one row is cheaper than a thousand.
 */
function statement(parts: SendParts): string {
  const { bounded, keyed, dedup, hands, delays } = parts
  const columns = columnsOf(parts)
  const id = dedup ? 'first_id' : 'id'
  const stored = ['taken', ...(dedup ? ['first_id = id'] : []), ...(keyed ? ['not chained'] : [])].join(' and ')
  return `/* send${when(keyed || bounded, ` to ${when(bounded, 'a bounded ')}${when(keyed, 'keyed ')}queue${when(!bounded, 's')}`)} */
with s as materialized (${bounded ? boundedQueue(parts) : unboundedQueues(parts)}),${when(keyed, openKeys)}
a as materialized (
  select array_agg(coalesce(s.id, 0) order by s.slot) as id, array_agg(coalesce(s.lifo, false) order by s.slot) as lifo,
    array_agg(coalesce(s.ttl_ms, 0) order by s.slot) as ttl${when(keyed, keySettings)}${when(delays, ', array_agg(coalesce(s.delay_ms, 0) order by s.slot) as delay')}${when(dedup, ', array_agg(coalesce(s.dedup_window_ms, 0) order by s.slot) as dedup_window')}${when(hands, closedQueues)}${when(bounded, ', (select b.taken from s b where b.slot = 1) as taken')}
  from s),
n as ${when(dedup, 'materialized ')}(
  select i.*, coalesce(a.id[i.slot], 0) as queue_id, nextval('postern.message_position') as id, a.lifo[i.slot] as lifo,
    ${when(bounded, 'coalesce(a.taken[i.ord], true) and ')}coalesce(a.id[i.slot], 0) > 0 as taken,
    coalesce(nullif(i.ttl_ms, -1), a.ttl[i.slot]) as lifetime_ms,
    ${when(delays, dueAt, 'now()')} as due_at${when(keyed, keyColumns)}${when(hands, ', a.closed[i.slot] as closed')}
  from unnest(${columns.map(([name, type]) => `$${name}::${type}[]`).join(', ')})
    with ordinality i(${columns.map(([name]) => name).join(', ')}, ord)
  cross join a${when(keyed, ' cross join g')}),${when(dedup, firsts)}
w as materialized (
  select n.*, case when n.lifo then -n.id else n.id end as position${when(delays, ', n.due_at <= now() as ready')}${when(
    keyed,
    `,
    (n.keyed or n.fair and n.due_at <= now()) and not (n.open and n.due_at <= now()) as chained`,
  )}${when(
    dedup,
    `,
    case when f.live[n.dedup] then f.id[n.dedup] else n.id end as first_id`,
  )}${when(
    hands,
    `,
    n.hand_ms > 0${when(keyed, ' and (n.open or not n.keyed) and not n.fair')} and n.due_at <= now() and not n.closed and ${fence('n.hand_fence', '$gateway::text')} as handed`,
  )}
  from n${when(dedup, ' cross join (select array_agg(message_id) as id, array_agg(live) as live from f) f')}),
m as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body${when(keyed, ', chain')}${when(hands, ', lease_token, leased_until, attempts')})
  select queue_id, lane, position, id, now(), now() + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb,
    ${body}${when(keyed, ', case when keyed or fair then id end')}${when(
      hands,
      `, case when handed then $token::bigint else 0 end,
    case when handed then now() + hand_ms * interval '1 ms' else '-infinity' end, handed::int`,
    )}
  from w where ${stored}${when(delays, ' and ready')})${when(hands, leasesOf(stored))}${when(delays, laterOf(stored))}${when(keyed, behindOf(dedup))}
select array_agg(${id} order by ord)::text as ids,
  array_agg(case when queue_id = 0 then 3 when not taken then 2${when(dedup, ' when first_id <> id then 1')}${when(hands, ' when handed then 4')}${when(keyed, ' when chained then 5')} else 0 end order by ord)::text as states,
  ${when(delays, `case when bool_or(not ready) then array_agg(case when ready then 0 else date_part('epoch', due_at) * 1000 end order by ord)::text end`, 'null')} as due,
  date_part('epoch', now()) * 1000 as now_ms
from w`
}

const body = 'substring($body::bytea from body_from for body_bytes)'

const dueAt = `case when i.deliver_at_ms >= 0 then to_timestamp(i.deliver_at_ms / 1000.0)
      else now() + coalesce(nullif(i.delay_ms, -1), a.delay[i.slot]) * interval '1 ms' end`

const closedQueues = `,
    array_agg(coalesce(s.closed, true) or exists (
      select 1 from unnest($probe_slot::int[], $probe_lane::smallint[], $probe_mark::bigint[]) p(slot, lane, mark) cross join lateral (
        select 1 from postern.messages m where m.queue_id = s.id and m.lane = p.lane and m.position > p.mark and m.lease_token = 0
        limit 1) x where p.slot = s.slot) order by s.slot) as closed`

const keySettings = `,
    array_agg(coalesce(s.keyed, false) order by s.slot) as keyed, array_agg(coalesce(s.fair, false) order by s.slot) as fair`

const keyColumns = `,
    i.key is not null and a.keyed[i.slot] as keyed, i.key is not null and a.fair[i.slot] as fair,
    coalesce(i.nth <= g.room[i.nth_key], false) as open`

/**
 * The distinct keys, and how many messages of each need not wait behind others. Locks them before positions are drawn: those of one key
 * follow the order of commits.
 */
const openKeys = `
g as materialized (
  select postern.open_keys(array_agg(coalesce(s.id, 0) order by p.ord), array_agg(p.key order by p.ord), array_agg(p.done order by p.ord)) as room
  from unnest($key_slot::int[], $keys::text[], $key_done::bigint[]) with ordinality p(slot, key, done, ord)
  left join s on s.slot = p.slot and (s.keyed or s.fair)),`

/** Which message each dedup id stands for: the first of this statement, or one before it whose window is open. */
const firsts = `
f as materialized (
  insert into postern.dedup as d (queue_id, dedup_id, message_id, expires_at)
  select a.id[x.slot], x.dedup_id, n.id[x.first], now() + case when n.taken[x.first] then a.dedup_window[x.slot] else 0 end * interval '1 ms'
  from unnest($entry_slot::int[], $entry_id::text[], $entry_first::int[]) x(slot, dedup_id, first) cross join a
  cross join (select array_agg(id order by ord) as id, array_agg(taken order by ord) as taken from n) n
  on conflict (queue_id, dedup_id) do update set
    message_id = case when d.expires_at > now() then d.message_id else excluded.message_id end,
    expires_at = case when d.expires_at > now() then d.expires_at else excluded.expires_at end
  returning message_id, expires_at > now() as live),`

const leasesOf = (stored: string): string => `,
l as (
  insert into postern.leases (expires_at, token, queue_id, lane, positions)
  select now() + hand_ms * interval '1 ms', $token::bigint, queue_id, lane, array_agg(position)
  from w where handed and ${stored} group by queue_id, lane, hand_ms)`

const laterOf = (stored: string): string => `,
d as (
  insert into postern.scheduled (due_at, queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body)
  select due_at, queue_id, lane, position, id, now(), due_at + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb, ${body}
  from w where ${stored} and not ready)`

const behindOf = (dedup: boolean): string => `,
v as (
  insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, content_type, headers, body)
  select queue_id, key, id, id, due_at, lane, now(), due_at + lifetime_ms * interval '1 ms', content_type, headers::jsonb, ${body}
  from w where taken and chained${when(dedup, ' and first_id = id')})`
