/**
 * Where a message goes when its lease ends without an ack, or its time is up: again into its queue, into `scheduled`
 * until its backoff is over, to the dead letters, or nowhere. Said once, in SQL, because the statement that would hand a
 * message out again must be the one that dead-letters it at the limit.
 */

import type { DeathReason } from '../model/index.ts'
import { bodyOf } from './log.ts'

/**
 * What a dead letter's headers tell about it in another queue than it died in: an object of jsonb, from SQL expressions. The error is any
 * text but control characters, as in a caller's own headers; edges send it as UTF-8.
 */
export const deathHeaders = (letter: { reason: string; queue: string; attempts: string; error: string; at: string }) =>
  `jsonb_strip_nulls(jsonb_build_object('postern-dead-reason', ${letter.reason}, 'postern-dead-queue', ${letter.queue},
      'postern-dead-attempts', ${letter.attempts}::text,
      'postern-dead-error', regexp_replace(${letter.error}, '[\\x01-\\x1f\\x7f-\\x9f]', '?', 'g'),
      'postern-died-at', to_char(${letter.at} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))`

/** Takes away what deathHeaders has added. */
export const withoutDeathHeaders = (headers: string) =>
  `nullif(${headers} - '{postern-dead-reason,postern-dead-queue,postern-dead-attempts,postern-dead-error,postern-died-at}'::text[], '{}')`

/**
 * `return`: the lease is taken back uncounted. `expired`: the message's own time is up. `gone`, `max_attempts`: whoever
 * delivers it has given up, for that reason.
 */
export type MoveKind = 'nack' | 'reject' | 'return' | 'expired' | 'gone' | 'max_attempts'

/** What became of one message: `queue_id`, `lane` and `position` say where it is ready now, when it is. */
export type MovedRow = {
  ord: number
  /** `waiting`: behind its key again, where it was; the key's next message may move up. */
  fate: 'ready' | 'delayed' | 'waiting' | 'dead' | 'dropped'
  queue_id: number
  lane: number
  position: number
  due_ms: number
  /** Why its life is over; null: it is not. */
  reason: DeathReason | null
  /** Whatever was under way of this key may be over: the next may move up. Nothing up to `freed_chain` is left of the key. */
  freed_key: string | null
  freed_queue_id: number
  freed_chain: number
}

/**
 * CTEs to follow one named `gone`, which has deleted the messages and returned their columns with
 * `ord, kind, delay_ms (-1: the queue's backoff), error`. Ends in a select of MovedRow from `k`.
 * The dead-letter queue's row is locked for key share: it is still there at commit, or the letter stays with its queue.
 * A dead letter carries its own body from then on, so that it outlives the topic's log.
 * A message keeps its id and gets a new position in the retry lane of its priority, so no mark ever passes over it.
 * A keyed message goes back behind its key, at its old place, and takes with it what was leased after it in the same run: those leases are
 * over, and their attempts count. So they do when it blocks the key. One that an ack or extend has in hand at this moment stays leased, and the key
 * waits for it. Index `messages_of_key`.
 */
export const route = `
r as materialized (
  select g.*, q.name as queue_name, q."order" = 'lifo' as lifo, q."order" = 'keyed' and g.chain is not null as keyed, q.dead_letter_expired, q.on_dead, t.id as target_id, t.ttl_ms as target_ttl_ms,
    t.lifo as target_lifo, nextval('postern.message_position') as fresh,
    case when g.kind = 'return' then null when g.kind = 'reject' then 'rejected' when g.kind in ('gone', 'max_attempts') then g.kind
      when g.kind = 'expired' or g.expires_at <= now() then 'expired'
      when g.attempts >= q.max_attempts then 'max_attempts' end as died,
    case when g.kind = 'return' then 0 when g.delay_ms >= 0 then g.delay_ms else coalesce(
      least(q.backoff_max_ms, q.backoff_base_ms * power(q.backoff_factor, least(g.attempts - 1, 60))) * (1 - q.backoff_jitter * random()), 0)
      end as wait_ms
  from (select * from gone order by queue_id, lane, position) g
  join postern.queues q on q.id = g.queue_id
  left join lateral (
    select d.id, d.ttl_ms, d."order" = 'lifo' as lifo from postern.queues d where d.id = q.dead_letter_queue_id for key share) t on true),
k as materialized (
  select r.*, case when died = 'expired' and not dead_letter_expired then 'dropped' when died is not null and target_id is null then 'dead'
      when died is not null then 'ready' when keyed then 'waiting' when wait_ms > 0 then 'delayed' else 'ready' end as fate,
    case when died is not null then target_id else queue_id end as to_queue_id,
    case when died is not null then lane | 1 else lane & ~1 end as to_lane,
    case when case when died is not null then target_lifo else lifo end then -fresh else fresh end as to_position,
    now() + wait_ms * interval '1 ms' as due_at
  from r),
to_messages as (
  insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body)
  select to_queue_id, to_lane, to_position, id, enqueued_at,
    case when died is not null then now() + target_ttl_ms * interval '1 ms' else expires_at end, case when died is null then chain end,
    case when died is not null then 0 when kind = 'return' then greatest(attempts - 1, 0) else attempts end,
    case when died is null then log_id end, content_type, key,
    case when died is null then headers else coalesce(headers, '{}') || ${deathHeaders({ reason: 'died', queue: 'queue_name', attempts: 'attempts', error: 'error', at: 'now()' })} end,
    case when died is null then body else ${bodyOf('k')} end
  from k where fate = 'ready'),
to_scheduled as (
  insert into postern.scheduled (due_at, queue_id, lane, position, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body)
  select due_at, to_queue_id, to_lane, to_position, id, enqueued_at, expires_at, chain, attempts, log_id, content_type, key, headers, body
  from k where fate = 'delayed'),
after as materialized (
  select x.tid from (
    select queue_id, key, min(chain) as chain from k
    where keyed and (fate = 'waiting' or died is not null and fate <> 'dropped' and on_dead = 'block') group by queue_id, key) y
  cross join lateral (
    select m.ctid as tid from postern.messages m
    where m.queue_id + 0 = y.queue_id and m.key = y.key and m.chain > y.chain and m.lease_token <> 0 for update skip locked) x),
back as (delete from postern.messages m using after where m.ctid = after.tid returning m.*),
to_waiting as (
  insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, attempts, log_id, content_type, headers, body)
  select queue_id, key, chain, id, due_at, to_lane, enqueued_at, expires_at, case when kind = 'return' then greatest(attempts - 1, 0) else attempts end,
    log_id, content_type, headers, body from k where fate = 'waiting'
  union all
  select queue_id, key, chain, id, now(), lane & ~1, enqueued_at, expires_at, attempts, log_id, content_type, headers, body from back),
to_blocked as (
  insert into postern.blocked_keys (queue_id, key, chain, message_id, reason, last_error, blocked_at)
  select queue_id, key, chain, id, died, error, now() from k where chain is not null and fate <> 'dropped' and died is not null and on_dead = 'block'
  on conflict do nothing),
to_dead as (
  insert into postern.dead (died_at, reason, last_error, origin, queue_id, lane, position, id, enqueued_at, expires_at, attempts,
    content_type, key, headers, body)
  select now(), died, error, queue_name, queue_id, lane, fresh, id, enqueued_at, expires_at, attempts, content_type, key, headers, ${bodyOf('k')}
  from k where fate = 'dead')`

export const movedColumns = `k.ord, k.fate, coalesce(k.to_queue_id, k.queue_id) as queue_id, k.to_lane as lane, k.to_position as position,
  case when k.fate = 'delayed' then k.wait_ms else 0 end as due_ms,
  case when k.chain is not null and (k.fate = 'waiting' or k.died is not null and (k.fate = 'dropped' or k.on_dead = 'continue')) then k.key end as freed_key,
  k.died as reason, k.queue_id as freed_queue_id, case when k.fate = 'waiting' then coalesce(k.follows, k.chain) - 1 else coalesce(k.follows - 1, k.chain) end as freed_chain`
