-- What drizzle cannot say: storage parameters, and the two decisions that need a lock and a fresh look inside one statement.

-- Half of each page is left free, so that a lease (an update of no indexed column) stays on its page and writes no index entry.
-- Rows live for seconds: vacuum early and without pauses.
alter table postern.messages set (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.2,
  toast.autovacuum_vacuum_scale_factor = 0.01, toast.autovacuum_vacuum_cost_delay = 0
);
alter table postern.scheduled set (
  autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0
);
alter table postern.leases set (
  autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);

-- Which of these messages a bounded queue takes, in the order given. Called inside the send statement: the lock on the
-- queue's row lets one send at a time through, and because the function is volatile each query in it sees what the
-- send before committed. A message whose dedup id is known takes no room. Members of a group (> 0) go in together or not
-- at all. With drop_oldest the oldest ready messages make room.
create function postern.admit(for_queue int, sizes bigint[], dedup_ids text[], groups int[]) returns boolean[]
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
    select case when q.max_bytes is null then 0 else octet_length(body) end n from postern.scheduled where queue_id = for_queue) x;
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

-- Deletes the longest-waiting ready messages of a queue; how many, and their bytes.
create function postern.drop_oldest(for_queue int, wanted bigint) returns table (n bigint, n_bytes bigint)
language sql volatile as $$
  with old as materialized (
    select m.lane, m.position from generate_series(0, 19) l(lane) cross join lateral (
      select lane, position, enqueued_at from postern.messages
      where queue_id = for_queue and lane = l.lane and lease_token = 0
      order by queue_id, lane, position limit wanted) m
    order by m.enqueued_at, abs(m.position) limit wanted),
  held as materialized (
    select x.tid from old cross join lateral (
      select ctid tid from postern.messages m
      where m.queue_id = for_queue and m.lane = old.lane and m.position = old.position and m.lease_token = 0
      limit 1 for update skip locked) x),
  gone as (delete from postern.messages where ctid = any (array(select tid from held)) returning octet_length(body) bytes)
  select count(*), coalesce(sum(bytes), 0)::bigint from gone
$$;

-- How many more messages of a queue with max_leased may be leased. Called inside the lease statement, under a lock on the
-- queue's row as above. Lease rows of which nothing is held any more are removed on the way, so the count stays short.
create function postern.lease_room(for_queue int) returns int
language plpgsql as $$
declare room int; held int;
begin
  select max_leased into room from postern.queues where id = for_queue for no key update;
  if not found then return 0; end if;
  delete from postern.leases l where l.queue_id = for_queue and l.expires_at > now() and not exists (
    select 1 from unnest(l.positions) p(position) cross join lateral (
      select 1 from postern.messages m
      where m.queue_id = l.queue_id and m.lane = l.lane and m.position = p.position and m.lease_token = l.token limit 1) x);
  select count(*) into held from (
    select distinct l.lane, p.position from postern.leases l cross join lateral unnest(l.positions) p(position) cross join lateral (
      select 1 from postern.messages m
      where m.queue_id = l.queue_id and m.lane = l.lane and m.position = p.position and m.lease_token = l.token
        and m.leased_until > now() limit 1) x
    where l.queue_id = for_queue and l.expires_at > now()) y;
  return greatest(0, coalesce(room, 2147483647) - held);
end $$;
