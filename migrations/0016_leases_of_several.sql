DROP INDEX "postern"."gateways_behind";--> statement-breakpoint
ALTER TABLE "postern"."leases" ADD COLUMN "queue_ids" integer[];--> statement-breakpoint
ALTER TABLE "postern"."leases" ADD COLUMN "lanes" smallint[];--> statement-breakpoint
CREATE INDEX "gateways_behind" ON "postern"."gateways" USING btree ("id") WHERE "postern"."gateways"."protocol" < 2;--> statement-breakpoint
-- What is leased from a queue when it gets a bound on its leases counts: `lease_room` looks at rows of that queue alone. What a statement
-- leases that runs at this very moment does not.
create function postern.own_leases() returns trigger language plpgsql as $$
begin
  insert into postern.leases (expires_at, token, queue_id, lane, positions)
  select l.expires_at, l.token, new.id, p.lane, array_agg(p.position)
  from postern.leases l cross join lateral unnest(l.queue_ids, l.lanes, l.positions) p(queue_id, lane, position)
  where l.queue_id = 0 and l.expires_at > now() and p.queue_id = new.id group by l.expires_at, l.token, p.lane
  on conflict do nothing;
  return null;
end $$;--> statement-breakpoint
create trigger queues_bound after update of max_leased on postern.queues for each row
  when (old.max_leased is null and new.max_leased is not null) execute function postern.own_leases();
