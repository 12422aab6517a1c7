-- Keyed queues: whoever adds to a key, or moves its next message up, holds the key's lock, so positions of one key follow the order of
-- commits and no message is left behind. Locks are shared out over 256 buckets: a statement with a thousand keys takes 256 locks, not more.

create function postern.key_bucket(queue_id int, key text) returns int language sql immutable parallel safe as
  $$ select (hashtextextended(key, queue_id) & 255)::int $$;

-- Locks the keys until the transaction ends, in everybody's order.
create function postern.lock_keys(queue_ids int[], for_keys text[]) returns bigint language sql volatile as $$
  select count(pg_advisory_xact_lock(4127772, b)) from (
    select distinct postern.key_bucket(q, k) as b from unnest(queue_ids, for_keys) u(q, k) order by b) x
$$;

-- Moves up the next message of each key that has none under way. `after`: messages of that key with places up to it are known to be done,
-- so the look need not wade through what is deleted and not yet vacuumed; 0 when nothing is known. Each query in it sees what
-- whoever had the lock before has committed. Answers with what became ready (due_in_ms null) or is delayed.
create function postern.elect(queue_ids int[], for_keys text[], after bigint[])
returns table (queue_id int, lane smallint, "position" bigint, due_in_ms float8) language plpgsql as $$
#variable_conflict use_column
begin
  perform postern.lock_keys(queue_ids, for_keys);
  return query
  with k as materialized (
    select u.q, u.k, min(u.a) as a from unnest(queue_ids, for_keys, after) u(q, k, a) group by u.q, u.k),
  t as materialized (
    select x.tid from k cross join lateral (
      select w.ctid as tid from postern.waiting w where w.queue_id = k.q and w.key = k.k and w.position > k.a
      order by w.queue_id, w.key, w.position limit 1 for update skip locked) x
    where not exists (select 1 from postern.messages m where m.queue_id = k.q and m.key = k.k and m.chain > k.a)
      and not exists (select 1 from postern.scheduled m where m.queue_id = k.q and m.key = k.k and m.chain > k.a)),
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

-- Rows live for seconds.
alter table postern.waiting set (
  autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
  toast.autovacuum_vacuum_scale_factor = 0.01, toast.autovacuum_vacuum_cost_delay = 0
);

-- Which of these messages a bounded queue takes, in the order given. Called inside the send statement: the lock on the
-- queue's row lets one send at a time through, and because the function is volatile each query in it sees what the
-- send before committed. A message whose dedup id is known takes no room. Members of a group (> 0) go in together or not
-- at all. With drop_oldest the oldest ready messages make room.
create or replace function postern.admit(for_queue int, sizes bigint[], dedup_ids text[], groups int[]) returns boolean[]
language plpgsql as $$
declare
  q postern.queues;
  stored bigint; bytes bigint := 0;
  taken boolean[] := array_fill(false, array[cardinality(sizes)]);
  first int := 1; last int; known boolean[]; need bigint; need_bytes bigint;
  dropped bigint; dropped_bytes bigint;
begin
  select * into q from postern.queues where id = for_queue for no key update;
  if not found then return null; end if;
  select count(*), coalesce(sum(n), 0) into stored, bytes from (
    select case when q.max_bytes is null then 0 else octet_length(body) end n from postern.messages where queue_id = for_queue
    union all
    select case when q.max_bytes is null then 0 else octet_length(body) end n from postern.scheduled where queue_id = for_queue
    union all
    select case when q.max_bytes is null then 0 else octet_length(body) end n from postern.waiting where queue_id = for_queue) x;
  while first <= cardinality(sizes) loop
    last := first;
    while groups[first] > 0 and last < cardinality(sizes) and groups[last + 1] = groups[first] loop last := last + 1; end loop;
    select count(*), coalesce(sum(sizes[i]), 0) into need, need_bytes from generate_series(first, last) i
      where dedup_ids[i] is null or not exists (
        select 1 from postern.dedup d where d.queue_id = for_queue and d.dedup_id = dedup_ids[i] and d.expires_at > now());
    if q.overflow = 'drop_oldest' and need <= coalesce(q.max_messages, need) and need_bytes <= coalesce(q.max_bytes, need_bytes) then
      while stored + need > coalesce(q.max_messages, stored + need) or bytes + need_bytes > coalesce(q.max_bytes, bytes + need_bytes) loop
        select n, n_bytes into dropped, dropped_bytes from postern.drop_oldest(for_queue,
          greatest(1, stored + need - coalesce(q.max_messages, stored + need))) x(n, n_bytes);
        exit when dropped = 0;
        stored := stored - dropped; bytes := bytes - dropped_bytes;
      end loop;
    end if;
    if need = 0 or (stored + need <= coalesce(q.max_messages, stored + need) and bytes + need_bytes <= coalesce(q.max_bytes, bytes + need_bytes)) then
      for i in first .. last loop taken[i] := true; end loop;
      stored := stored + need; bytes := bytes + need_bytes;
    end if;
    first := last + 1;
  end loop;
  return taken;
end $$;
