/**
 * What the machine allows: Postgres without a queue around it. Inserts by unnest into a plain table at several batch sizes, and the least
 * that a queue must do (insert; update … skip locked; delete) at the batch sizes that Postern's gateways gather.
 */
import postgres, { type Sql } from 'postgres'
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
  let connected: Sql | undefined
  const opened = once(async () => {
    connected = await open(place)
    return connected
  })
  const cell = (name: string, size: number, statements: (sql: Sql, size: number) => Promise<number>): Scenario => ({
    name,
    prepare: async () => (await opened()).unsafe('truncate raw.messages'),
    async run(roundMs) {
      const sql = await opened()
      return await calling({ callers: connections, call: () => statements(sql, size) }, roundMs)
    },
  })
  return {
    title: 'messages per second',
    scenarios: [
      ...sizes.map((size) => cell(limitNames.insert(size), size, insert)),
      ...sizes.map((size) => cell(limitNames.cycle(size), size, cycle)),
    ],
    latencies: [],
    ratios: [],
    async close() {
      await connected?.unsafe('drop schema raw cascade')
      await connected?.end()
    },
  }
}

/** With the plans that suit a queue's table, which is empty and full in turns. */
async function open(place: Place): Promise<Sql> {
  const sql = postgres(place.databaseUrl, {
    max: connections,
    onnotice: () => {},
    connection: {
      plan_cache_mode: 'force_generic_plan',
      enable_seqscan: 'off',
      enable_bitmapscan: 'off',
      enable_hashjoin: 'off',
      enable_mergejoin: 'off',
    } as Record<string, string>,
  })
  place.closing.push(() => sql.end({ timeout: 1 }))
  await sql.unsafe(tableText)
  return sql
}

async function insert(sql: Sql, size: number): Promise<number> {
  const bodies = sql.typed(Array(size).fill(body) as never, byteaArray)
  await sql.unsafe(insertText, [bodies as never], { prepare: true })
  return size
}

async function cycle(sql: Sql, size: number): Promise<number> {
  await insert(sql, size)
  const leased = await sql.unsafe<{ id: string }[]>(leaseText, [size], { prepare: true })
  if (leased.length > 0) await sql.unsafe(deleteText, [`{${leased.map(({ id }) => id).join(',')}}`], { prepare: true })
  return leased.length
}

const tableText = `create schema if not exists raw;
  create table raw.messages (id bigint generated always as identity primary key, leased_until timestamptz not null default '-infinity', body bytea)
    with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0)`
const insertText = 'insert into raw.messages (body) select unnest($1::bytea[])'
const leaseText = `update raw.messages set leased_until = now() + interval '30 s' where ctid = any(array(
  select ctid from raw.messages where leased_until <= now() order by id limit $1 for update skip locked)) returning id, body`
const deleteText = `delete from raw.messages where ctid = any(array(
  select m.ctid from unnest($1::bigint[]) x(id) cross join lateral (select ctid from raw.messages m where m.id = x.id limit 1) m))`
