/**
 * What the machine allows: Postgres without a queue around it. Inserts by unnest into a plain table at several batch sizes, and the least
 * that a queue must do (insert; update … skip locked; delete) at the batch sizes that Postern's gateways gather.
 */
import postgres from 'postgres'
import { body, once, type Place } from './place.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const connections = 4
const sizes = [1, 10, 100, 250]
const byteaArray = 1001

export const limitNames = {
  insert: (size: number): string => `limits  raw insert … unnest of ${size}, ${connections} connections`,
  cycle: (size: number): string => `limits  raw insert, lease, delete of ${size}, ${connections} connections`,
}

export function limitsPart(place: Place): Part {
  const opened = once(async () => {
    const sql = postgres(place.databaseUrl, {
      max: connections,
      onnotice: () => {},
      connection: {
        plan_cache_mode: 'force_generic_plan',
        enable_seqscan: false,
        enable_bitmapscan: false,
        enable_hashjoin: false,
        enable_mergejoin: false,
      } as Record<string, string | boolean>,
    })
    place.closing.push(() => sql.end({ timeout: 1 }))
    await sql.unsafe(`create schema if not exists raw;
      create table raw.messages (id bigint generated always as identity primary key, leased_until timestamptz not null default '-infinity', body bytea)
        with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0)`)
    return sql
  })
  async function insert(size: number): Promise<number> {
    const sql = await opened()
    await sql.unsafe(
      'insert into raw.messages (body) select unnest($1::bytea[])',
      [sql.typed(Array(size).fill(body) as never, byteaArray) as never],
      { prepare: true },
    )
    return size
  }
  async function cycle(size: number): Promise<number> {
    const sql = await opened()
    await insert(size)
    const leased = await sql.unsafe<{ id: string }[]>(leaseText, [size], { prepare: true })
    if (leased.length > 0)
      await sql.unsafe(deleteText, [`{${leased.map(({ id }) => id).join(',')}}`], { prepare: true })
    return leased.length
  }
  const cell = (name: string, call: () => Promise<number>): Scenario => ({
    name,
    prepare: async () => (await opened()).unsafe('truncate raw.messages'),
    run: (roundMs) => calling({ callers: connections, call }, roundMs),
  })
  return {
    title: 'messages per second',
    scenarios: [
      ...sizes.map((size) => cell(limitNames.insert(size), () => insert(size))),
      ...sizes.map((size) => cell(limitNames.cycle(size), () => cycle(size))),
    ],
    latencies: [],
    ratios: [],
    close: async () => (await opened()).unsafe('drop schema raw cascade'),
  }
}

const leaseText = `update raw.messages set leased_until = now() + interval '30 s' where ctid = any(array(
  select ctid from raw.messages where leased_until <= now() order by id limit $1 for update skip locked)) returning id, body`
const deleteText = `delete from raw.messages where ctid = any(array(
  select m.ctid from unnest($1::bigint[]) x(id) cross join lateral (select ctid from raw.messages m where m.id = x.id limit 1) m))`
