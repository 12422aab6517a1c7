-- What drizzle cannot say about topics and subscriptions.

-- Written once and never changed; whole bodies lie here, so they are cleaned without pauses.
alter table postern.topic_log set (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_cost_delay = 0
);
-- A heartbeat a second for each gateway: a few rows that change all the time.
alter table postern.gateways set (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- Whether the bounded ones among these queues take a copy of one publish, in the order of their ids, which is everybody's. One that
-- refuses raises PQ001 with its name, so that the whole publish, and what was dropped to make room for it, is undone. Called inside
-- the publish statement. A publish that will not be stored anyway (routed by an old version, or a duplicate) asks for no room.
create function postern.admit_copies(for_topic int, at_version bigint, wanted_dedup_id text, queue_ids int[], bytes int) returns boolean
language plpgsql as $$
declare q record; taken boolean[];
begin
  if not exists (select 1 from postern.topics where id = for_topic and at_version in (version, 0)) then return false; end if;
  if exists (select 1 from postern.dedup where queue_id = -for_topic and dedup_id = wanted_dedup_id and expires_at > now()) then return true; end if;
  for q in select id, name from postern.queues where id = any (queue_ids) and (max_messages is not null or max_bytes is not null) order by id loop
    taken := postern.admit(q.id, array[bytes]::bigint[], array[null]::text[], array[0]);
    if not coalesce(taken[1], true) then raise exception 'queue full' using errcode = 'PQ001', detail = q.name; end if;
  end loop;
  return true;
end $$;
