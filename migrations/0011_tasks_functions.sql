-- Which of these letters their queues take, in the order given: those of unbounded queues all, those of bounded ones as `admit` says. The
-- queues' rows are locked in the order of their ids, which is everybody's. Called inside the statement that moves the letters.
create function postern.admit_letters(queue_ids int[], sizes bigint[]) returns boolean[] language plpgsql strict as $$
declare
  q int; places int[]; admitted boolean[];
  taken boolean[] := array_fill(true, array[cardinality(queue_ids)]);
begin
  for q in
    select id from postern.queues where id = any (queue_ids) and (max_messages is not null or max_bytes is not null) order by id
  loop
    select array_agg(ord order by ord) into places from unnest(queue_ids) with ordinality u(id, ord) where u.id = q;
    admitted := postern.admit(q, (select array_agg(sizes[p] order by n) from unnest(places) with ordinality x(p, n)),
      array_fill(null::text, array[cardinality(places)]), array_fill(0, array[cardinality(places)]));
    for i in 1 .. cardinality(places) loop taken[places[i]] := coalesce(admitted[i], true); end loop;
  end loop;
  return taken;
end $$;

-- A few rows, each of which changes several times a second while its task runs.
alter table postern.tasks set (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
