/**
 * The statement that stores new messages, with the parts that a batch needs: most batches have no dedup ids, delays, keys or waiting
 * receivers, and each part costs Postgres something even when nothing goes through it.
 */
import { jsonTextsIn } from './client.ts'
import { fence } from './fence.ts'
import { leaseRows } from './lease_rows.ts'
import { type Named, named } from './named.ts'
import { readyAmong } from './probes.ts'

export type SendParts = {
  /** To one queue with max_messages or max_bytes, instead of to any number of queues that have none. */
  bounded: boolean
  /** Some queue has an order for each key, or turns. */
  keyed: boolean
  /** Some message has a dedup id. */
  dedup: boolean
  /** Some message is meant for a waiting receiver. Never when bounded. */
  hands: boolean
  /** Some of those receivers are the dispatchers of subscriptions. */
  fences: boolean
  /** Some message has a delay. Without this part a queue that itself has one is `missing`. */
  delays: boolean
}

const made = new Map<string, Named>()

/** The same object for the same parts. */
export function sendText(parts: SendParts): Named {
  const name = JSON.stringify(parts)
  let text = made.get(name)
  if (!text) {
    text = named(linesFor(parts))
    made.set(name, text)
  }
  return text
}

/** Without the lines of parts that are left out. A line may begin with `[part]` or `[!part]`, more than one too. */
const linesFor = (parts: SendParts): string =>
  wholeText
    .split('\n')
    .flatMap((line) => {
      const [, guards = '', rest = ''] = /^((?:\[!?\w+\] *)*)(.*)$/.exec(line) ?? []
      const isIn = [...guards.matchAll(/\[(!?)(\w+)\]/g)].every(
        ([, not, part]) => parts[part as keyof SendParts] === (not === ''),
      )
      return isIn ? [rest] : []
    })
    .join('\n')
    .trim()

/** A part of a line must not end it. */
const inLine = (text: string): string => text.replace(/\s+/g, ' ')
const body = 'substring($body::bytea from body_from for body_bytes)'
const settings =
  inLine(`q.id, q."order" = 'lifo' as lifo, q."order" = 'keyed' as keyed, q.fair, q.delay_ms, q.ttl_ms, q.dedup_window_ms,
  q.paused or q.max_leased is not null as closed`)

/**
 * s: The queues. The row of one without a bound is locked for key share, so a queue that is being deleted is either still there when the
 * send commits (and then is not empty) or `missing`; that of one with a bound is locked by `admit`, so sends to it pass one at a time. Two
 * sends never wait for each other otherwise, except over the same dedup id or key, and those are taken in one order everywhere.
 * g: The distinct keys, and how many messages of each need not wait behind others. Locked before positions are drawn: those of one key
 * follow the order of commits.
 * a: What is to be known of the queues, as arrays by their slots. `closed`: nothing may be handed over, because the queue may not lease or
 * because, in this statement's snapshot, a ready message lies before it.
 * n, w: The messages. f: Which message each dedup id stands for: the first of this statement, or one before it whose window is open.
 * The result is arrays, in the order asked: one row is cheaper than a thousand. Served by the primary keys of `queues`, `messages`, `dedup`.
 */
const wholeText = `
[!bounded] [!keyed] /* send */
[!bounded] [keyed]  /* send to keyed queues */
[bounded] [!keyed]  /* send to a bounded queue */
[bounded] [keyed]   /* send to a bounded keyed queue */
with s as materialized (
[!bounded] select o.slot, k.* from unnest($queue_ids::int[]) with ordinality o(id, slot) left join lateral (
[!bounded]   select ${settings} from postern.queues q where q.id = o.id and q.max_messages is null and q.max_bytes is null
[!bounded] [!delays] and q.delay_ms = 0
[!bounded]   for key share) k on true),
[bounded] select 1 as slot, ${settings}, t.taken
[bounded]   from (select postern.admit(($queue_ids::int[])[1], $bytes::bigint[], $dedup_ids::text[], $groups::int[]) as taken) t
[bounded]   join postern.queues q on q.id = ($queue_ids::int[])[1] and t.taken is not null
[bounded] [!delays] and q.delay_ms = 0
[bounded] ),
[keyed] g as materialized (
[keyed]   select postern.open_keys(array_agg(coalesce(s.id, 0) order by p.ord), array_agg(p.key order by p.ord), array_agg(p.done order by p.ord)) as room
[keyed]   from unnest($key_slot::int[], $keys::text[], $key_done::bigint[]) with ordinality p(slot, key, done, ord)
[keyed]   left join s on s.slot = p.slot and (s.keyed or s.fair)),
a as materialized (
  select array_agg(coalesce(s.id, 0) order by s.slot) as id, array_agg(coalesce(s.lifo, false) order by s.slot) as lifo,
[keyed]   array_agg(coalesce(s.keyed, false) order by s.slot) as keyed, array_agg(coalesce(s.fair, false) order by s.slot) as fair,
[delays]  array_agg(coalesce(s.delay_ms, 0) order by s.slot) as delay,
[dedup]   array_agg(coalesce(s.dedup_window_ms, 0) order by s.slot) as dedup_window,
[hands]   array_agg(coalesce(s.closed, true) or exists (
[hands]     ${inLine(readyAmong({ queue: 's', from: '$probe_from', to: '$probe_to', lanes: '$probe_lane', marks: '$probe_mark' }))}) order by s.slot) as closed,
[bounded] (select b.taken from s b where b.slot = 1) as taken,
    array_agg(coalesce(s.ttl_ms, 0) order by s.slot) as ttl
  from s),
n as (
  select i.*, coalesce(a.id[i.slot], 0) as queue_id, nextval('postern.message_position') as id, a.lifo[i.slot] as lifo,
[bounded]  coalesce(a.taken[i.ord], true) and a.id[i.slot] > 0 as taken,
[!bounded] a.id[i.slot] > 0 as taken,
[keyed]    i.key is not null and a.keyed[i.slot] as keyed, i.key is not null and a.fair[i.slot] as fair,
[keyed]    coalesce(i.nth <= g.room[i.nth_key], false) as open,
[hands]    a.closed[i.slot] as closed,
[delays]   case when i.deliver_at_ms >= 0 then to_timestamp(i.deliver_at_ms / 1000.0)
[delays]     else now() + coalesce(nullif(i.delay_ms, -1), a.delay[i.slot]) * interval '1 ms' end as due_at,
[!delays]  now() as due_at,
    coalesce(nullif(i.ttl_ms, -1), a.ttl[i.slot]) as lifetime_ms
  from unnest($slot::int[], $lane::smallint[], $ttl_ms::bigint[], $content_type::text[], $key::text[], ${jsonTextsIn('$headers')},
[delays]     $delay_ms::bigint[], $deliver_at_ms::bigint[],
[dedup]      $dedup::int[],
[hands]      $hand_ms::int[],
[fences]     $hand_fence::int[],
[keyed]      $nth_key::int[], $nth::int[],
      $body_from::int[], $body_bytes::int[])
    with ordinality i(slot, lane, ttl_ms, content_type, key, headers,
[delays]     delay_ms, deliver_at_ms,
[dedup]      dedup,
[hands]      hand_ms,
[fences]     hand_fence,
[keyed]      nth_key, nth,
      body_from, body_bytes, ord)
[keyed] cross join g
  cross join a),
[dedup] f as materialized (
[dedup]   insert into postern.dedup as d (queue_id, dedup_id, message_id, expires_at)
[dedup]   select a.id[x.slot], x.dedup_id, n.id[x.first], now() + case when n.taken[x.first] then a.dedup_window[x.slot] else 0 end * interval '1 ms'
[dedup]   from unnest($entry_slot::int[], $entry_id::text[], $entry_first::int[]) x(slot, dedup_id, first) cross join a
[dedup]   cross join (select array_agg(id order by ord) as id, array_agg(taken order by ord) as taken from n) n
[dedup]   on conflict (queue_id, dedup_id) do update set
[dedup]     message_id = case when d.expires_at > now() then d.message_id else excluded.message_id end,
[dedup]     expires_at = case when d.expires_at > now() then d.expires_at else excluded.expires_at end
[dedup]   returning message_id, expires_at > now() as live),
w as materialized (
  select n.*, case when n.lifo then -n.id else n.id end as position,
[dedup]  case when f.live[n.dedup] then f.id[n.dedup] else n.id end as first_id,
[!dedup] n.id as first_id,
[keyed]  (n.keyed or n.fair and n.due_at <= now()) and not (n.open and n.due_at <= now()) as chained,
[hands]  n.hand_ms > 0 and n.due_at <= now() and not n.closed
[hands] [keyed]  and (n.open or not n.keyed) and not n.fair
[hands] [fences] and ${inLine(fence('n.hand_fence', '$gateway::text'))}
[hands]  as handed,
    n.due_at <= now() as ready
[dedup] from n cross join (select array_agg(message_id) as id, array_agg(live) as live from f) f),
[!dedup] from n),
[hands] ${inLine(leaseRows({ from: '(select * from w where taken and handed and first_id = id) z', several: 'cardinality($queue_ids::int[]) > 1', expiresAt: "now() + hand_ms * interval '1 ms'", token: '$token::bigint' }))},
[delays] d as (
[delays]   insert into postern.scheduled (due_at, queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body)
[delays]   select due_at, queue_id, lane, position, id, now(), due_at + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb, ${body}
[delays]   from w where taken and not ready and first_id = id
[delays] [keyed] and not chained
[delays] ),
[keyed] v as (
[keyed]   insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, content_type, headers, body)
[keyed]   select queue_id, key, id, id, due_at, lane, now(), due_at + lifetime_ms * interval '1 ms', content_type, headers::jsonb, ${body}
[keyed]   from w where taken and chained and first_id = id),
m as (
  insert into postern.messages (
[keyed] chain,
[hands] lease_token, leased_until, attempts,
    queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body)
  select
[keyed] case when keyed or fair then id end,
[hands] case when handed then $token::bigint else 0 end, case when handed then now() + hand_ms * interval '1 ms' else '-infinity' end, handed::int,
    queue_id, lane, position, id, now(), now() + lifetime_ms * interval '1 ms', content_type, key, headers::jsonb, ${body}
  from w where taken and ready
[dedup] and first_id = id
[keyed] and not chained
  )
select array_agg(first_id order by ord)::text as ids,
  array_agg(case when queue_id = 0 then 3 when not taken then 2
[dedup] when first_id <> id then 1
[hands] when handed then 4
[keyed] when chained then 5
    else 0 end order by ord)::text as states,
[delays]  case when bool_or(not ready) then array_agg(case when ready then 0 else date_part('epoch', due_at) * 1000 end order by ord)::text end as due,
[!delays] null as due,
  date_part('epoch', now()) * 1000 as now_ms
from w`
