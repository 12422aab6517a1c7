DROP INDEX "postern"."messages_chain";--> statement-breakpoint
DROP INDEX "postern"."scheduled_chain";--> statement-breakpoint
DROP INDEX "postern"."waiting_position";--> statement-breakpoint
ALTER TABLE "postern"."messages" ADD COLUMN "follows" bigint;--> statement-breakpoint
ALTER TABLE "postern"."blocked_keys" DROP CONSTRAINT "blocked_keys_queue_id_key_pk";--> statement-breakpoint
ALTER TABLE "postern"."blocked_keys" ADD CONSTRAINT "blocked_keys_queue_id_key_chain_pk" PRIMARY KEY("queue_id","key","chain");--> statement-breakpoint
CREATE INDEX "messages_of_key" ON "postern"."messages" USING btree (("queue_id" + 0),"key","chain") WHERE "postern"."messages"."chain" is not null;--> statement-breakpoint
CREATE INDEX "scheduled_of_key" ON "postern"."scheduled" USING btree (("queue_id" + 0),"key","chain") WHERE "postern"."scheduled"."chain" is not null;--> statement-breakpoint
CREATE INDEX "waiting_place" ON "postern"."waiting" USING btree (("queue_id" + 0),("position" + 0));--> statement-breakpoint
-- A lease of the first message of a key takes messages behind it along. What fails of such a run goes back behind its key with all after it.

-- As before, and first without the lock. Whoever has put a message behind its key, or has ended what was under way, asks only after its
-- commit; so of two at once the later one sees what the other did, and what there is nothing to do about here is found by it. The order of
-- a key is looked up by `queue_id + 0`, which only the index meant for it has. One message of a key at a time on a keyed queue, when nothing of
-- it is under way and no dead letter has stopped it; on a fair one as many as 32 are ready. Looks begin at the newest end: while vacuum is held
-- back the rows of a busy key lie dead before those that live. (In `exists` an order would be dropped.) What somebody is deleting at this
-- moment is not passed over, for that may yet come to nothing: the walk looks again.
create or replace function postern.elect(queue_ids int[], for_keys text[], after bigint[])
returns table (queue_id int, lane smallint, "position" bigint, due_in_ms float8) language plpgsql as $$
#variable_conflict use_column
declare qs int[]; ks text[]; hints bigint[];
begin
  select array_agg(u.q), array_agg(u.k), array_agg(u.a) into qs, ks, hints from (
    select x.q, x.k, max(x.a) as a from unnest(queue_ids, for_keys, after) x(q, k, a) group by x.q, x.k) u
  join postern.queues s on s.id = u.q
  where (select true from postern.waiting w where w.queue_id = u.q and w.key = u.k and w.position > u.a order by w.queue_id desc, w.key desc, w.position desc limit 1)
    and (s."order" <> 'keyed' or coalesce(
      (select true from postern.messages m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 1),
      (select true from postern.scheduled m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 1)) is null);
  if qs is null then return; end if;
  perform postern.lock_keys(qs, ks);
  return query
  with k as materialized (
    select u.q, u.k, u.a, case
      when s."order" <> 'keyed' then 32 - (select count(*) from (
        select 1 from postern.messages m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a and m.lease_token = 0
        order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 32) z)
      when (select true from postern.messages m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 1)
        or (select true from postern.scheduled m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 1)
        or exists (select 1 from postern.blocked_keys b where b.queue_id = u.q and b.key = u.k) then 0
      else 1 end as room
    from unnest(qs, ks, hints) u(q, k, a) join postern.queues s on s.id = u.q),
  t as materialized (
    select x.tid from k cross join lateral (
      select w.ctid as tid from postern.waiting w where w.queue_id = k.q and w.key = k.k and w.position > k.a
      order by w.queue_id, w.key, w.position limit k.room) y cross join lateral (
      select w.ctid as tid from postern.waiting w where w.ctid = y.tid limit 1 for update skip locked) x),
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
--> statement-breakpoint
-- For a send: locks the keys until the transaction ends, and answers for each, in the order given, how many new messages of it need not wait
-- behind others, by the rule of elect: written out twice, because a function of its own takes 20 us a key. Each query in it sees what
-- whoever had the lock before has committed.
create function postern.open_keys(queue_ids int[], for_keys text[], after bigint[]) returns int[] language plpgsql volatile as $$
begin
  perform postern.lock_keys(queue_ids, for_keys);
  return (
    select array_agg(coalesce(x.room, 0) order by u.ord) from unnest(queue_ids, for_keys, after) with ordinality u(q, k, a, ord)
    left join lateral (
      select case when (select true from postern.waiting w where w.queue_id = u.q and w.key = u.k and w.position > u.a order by w.queue_id desc, w.key desc, w.position desc limit 1) then 0
      when s."order" <> 'keyed' then 32 - (select count(*) from (
        select 1 from postern.messages m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a and m.lease_token = 0
        order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 32) z)
      when (select true from postern.messages m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 1)
        or (select true from postern.scheduled m where m.queue_id + 0 = u.q and m.key = u.k and m.chain > u.a order by m.queue_id + 0 desc, m.key desc, m.chain desc limit 1)
        or exists (select 1 from postern.blocked_keys b where b.queue_id = u.q and b.key = u.k) then 0
      else 1 end as room
      from postern.queues s where s.id = u.q) x on true);
end $$;
--> statement-breakpoint
-- Lets a blocked key go on: `again`, its dead letters take their old places in the order of the key; otherwise they stay dead. Ask for the
-- key's election then. Null: the key is not blocked. False: none of the letters is with the dead letters of this queue any more.
create function postern.unblock_key(for_queue int, for_key text, again boolean) returns boolean language plpgsql as $$
declare chains bigint[]; letters bigint[]; found_it boolean := true;
begin
  perform postern.lock_keys(array[for_queue], array[for_key]);
  select array_agg(y.chain), array_agg(y.message_id) into chains, letters from (
    select * from postern.blocked_keys x where x.queue_id = for_queue and x.key = for_key for update) y;
  if chains is null then return null; end if;
  if again then
    with d as (
      delete from postern.dead x using unnest(chains, letters) b(chain, message_id) where x.queue_id = for_queue and x.id = b.message_id
      returning x.*, b.chain)
    insert into postern.waiting (queue_id, key, position, id, due_at, lane, enqueued_at, expires_at, content_type, headers, body)
    select d.queue_id, for_key, d.chain, d.id, now(), d.lane | 1, d.enqueued_at, now() + q.ttl_ms * interval '1 ms', d.content_type, d.headers, d.body
    from d join postern.queues q on q.id = d.queue_id;
    found_it := found;
  end if;
  if found_it then delete from postern.blocked_keys x where x.queue_id = for_queue and x.key = for_key and x.chain = any (chains); end if;
  return found_it;
end $$;
--> statement-breakpoint
-- As before, and what waits behind its key is as ready as what may be leased: the oldest of both goes. When that is the first of a key, the
-- walk over keys moves up the next, for this may not take the locks of keys: it would in another order than everybody's.
create or replace function postern.drop_oldest(for_queue int, wanted bigint) returns table (n bigint, n_bytes bigint)
language sql volatile as $$
  with old as materialized (
    select * from (
      select m.lane, m.position, null::text as key, m.enqueued_at, m.place from generate_series(0, 19) l(lane) cross join lateral (
        select lane, position, enqueued_at, coalesce(chain, abs(position)) as place from postern.messages
        where queue_id = for_queue and lane = l.lane and lease_token = 0
        order by queue_id, lane, position limit wanted) m
      union all
      (select null, w.position, w.key, w.enqueued_at, w.position from postern.waiting w where w.queue_id + 0 = for_queue
        order by w.queue_id + 0, w.position + 0 limit wanted)) x
    order by enqueued_at, place limit wanted),
  held as materialized (
    select x.tid from old cross join lateral (
      select ctid as tid from postern.messages m
      where m.queue_id = for_queue and m.lane = old.lane and m.position = old.position and m.lease_token = 0
      limit 1 for update skip locked) x where old.key is null),
  behind as materialized (
    select x.tid from old cross join lateral (
      select ctid as tid from postern.waiting w where w.queue_id = for_queue and w.key = old.key and w.position = old.position
      limit 1 for update skip locked) x where old.key is not null),
  gone as (delete from postern.messages where ctid = any (array(select tid from held)) returning octet_length(body) as bytes),
  gone_behind as (delete from postern.waiting where ctid = any (array(select tid from behind)) returning octet_length(body) as bytes)
  select count(*), coalesce(sum(bytes), 0)::bigint from (select bytes from gone union all select bytes from gone_behind) x
$$;
