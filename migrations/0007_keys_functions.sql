-- Fair queues, and keys that a dead letter has stopped.

-- As before, and: a blocked key stays where it is; on a queue that is not keyed up to 32 messages of each key are ready at a time, so that
-- keys take turns and one message behind another does not cost a round trip.
create or replace function postern.elect(queue_ids int[], for_keys text[], after bigint[])
returns table (queue_id int, lane smallint, "position" bigint, due_in_ms float8) language plpgsql as $$
#variable_conflict use_column
begin
  perform postern.lock_keys(queue_ids, for_keys);
  return query
  with k as materialized (
    select u.q, u.k, u.a, o.room from (
      select x.q, x.k, min(x.a) as a from unnest(queue_ids, for_keys, after) x(q, k, a) group by x.q, x.k) u
    join postern.queues s on s.id = u.q
    cross join lateral (
      select case
        when s."order" <> 'keyed' then 32 - (select count(*) from (
          select 1 from postern.messages m where m.queue_id = u.q and m.key = u.k and m.chain > u.a and m.lease_token = 0 limit 32) z)
        when exists (select 1 from postern.blocked_keys b where b.queue_id = u.q and b.key = u.k)
          or exists (select 1 from postern.messages m where m.queue_id = u.q and m.key = u.k and m.chain > u.a)
          or exists (select 1 from postern.scheduled m where m.queue_id = u.q and m.key = u.k and m.chain > u.a) then 0
        else 1 end as room) o),
  t as materialized (
    select x.tid from k cross join lateral (
      select w.ctid as tid from postern.waiting w where w.queue_id = k.q and w.key = k.k and w.position > k.a
      order by w.queue_id, w.key, w.position limit k.room for update skip locked) x),
  d as (delete from postern.waiting where ctid = any (array(select tid from t)) returning *),
  n as materialized (
    select d.*, nextval('postern.message_position') as fresh from (select * from d order by d.position) d),
  m as (
    insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, attempts, content_type, key, headers, body, chain)
    select n.queue_id, n.lane, n.fresh, n.id, n.enqueued_at, n.expires_at, n.attempts, n.content_type, n.key, n.headers, n.body, n.position
    from n where n.due_at <= now()),
  s as (
    insert into postern.scheduled (due_at, queue_id, lane, position, id, enqueued_at, expires_at, attempts, content_type, key, headers, body, chain)
    select n.due_at, n.queue_id, n.lane, n.fresh, n.id, n.enqueued_at, n.expires_at, n.attempts, n.content_type, n.key, n.headers, n.body, n.position
    from n where n.due_at > now())
  select n.queue_id, n.lane, n.fresh, case when n.due_at > now() then (date_part('epoch', n.due_at - now()) * 1000)::float8 end from n;
end $$;

-- Lets a blocked key go on: `again`, its dead letter is tried once more before all others; otherwise the letter stays dead. Answers what
-- became ready; no row when the key is not blocked; `position` null when the letter is not with the dead letters of this queue any more.
create function postern.unblock(for_queue int, for_key text, again boolean)
returns table (lane smallint, "position" bigint, chain bigint) language plpgsql as $$
#variable_conflict use_column
declare b postern.blocked_keys; fresh bigint;
begin
  perform postern.lock_keys(array[for_queue], array[for_key]);
  select * into b from postern.blocked_keys x where x.queue_id = for_queue and x.key = for_key for update;
  if not found then return; end if;
  if not again then
    delete from postern.blocked_keys x where x.queue_id = for_queue and x.key = for_key;
    return query select null::smallint, null::bigint, b.chain;
    return;
  end if;
  fresh := nextval('postern.message_position');
  return query
  with d as (delete from postern.dead x where x.queue_id = for_queue and x.id = b.message_id returning *),
  u as (delete from postern.blocked_keys x where x.queue_id = for_queue and x.key = for_key and exists (select 1 from d)),
  m as (
    insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, key, headers, body, chain)
    select d.queue_id, d.lane | 1, fresh, d.id, d.enqueued_at, now() + q.ttl_ms * interval '1 ms', d.content_type, d.key, d.headers, d.body, b.chain
    from d join postern.queues q on q.id = d.queue_id
    returning lane, position)
  select m.lane, m.position, b.chain from (select 1) one left join m on true;
end $$;
