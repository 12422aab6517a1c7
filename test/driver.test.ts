/** What the patch of the driver (scripts/patch-postgres.mjs) changes: bytea goes in binary, and stays what it is; few connections are kept warm. */

import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { connect, type Database } from '../src/store/index.ts'
import { type TestDatabase, testDatabase } from './support/postgres.ts'

let db: TestDatabase
let prepared: Database
let unprepared: Database

beforeAll(async () => {
  db = await testDatabase()
  prepared = connect({ databaseUrl: db.url, pool: 2, prepare: true })
  unprepared = connect({ databaseUrl: db.url, pool: 2, prepare: false })
})
afterAll(async () => {
  await prepared.close()
  await unprepared.close()
  await db.drop()
})

const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
const values = {
  'every byte': everyByte,
  nothing: Buffer.alloc(0),
  'what looks like hexadecimal text': Buffer.from('\\x41'),
  'three megabytes': Buffer.alloc(3_000_000, everyByte),
}

test.each(Object.entries(values))(
  '%s comes back, among values of other types, the first time and later',
  async (_, value) => {
    type Row = { a: Buffer; n: number; t: string; b: Buffer; none: Buffer | null; bytes: number; at: Date }
    const text = `select $1::bytea as a, $2::int as n, $3::text as t, $1::bytea as b, null::bytea as none, octet_length($1::bytea) as bytes,
    $4::timestamptz as at`
    for (const database of [prepared, unprepared])
      for (let time = 0; time < 3; time++) {
        const [row] = await database.hot<Row>(text, [value, 7, 'é\\x', new Date(5)])
        expect(row?.a.equals(value) && row.b.equals(value)).toBe(true)
        expect({ ...row, a: 0, b: 0 }).toEqual({
          a: 0,
          b: 0,
          n: 7,
          t: 'é\\x',
          none: null,
          bytes: value.length,
          at: new Date(5),
        })
      }
  },
)

test('many at once on few connections, each with its own rows', async () => {
  const text = 'select substring($1::bytea from 1 for n) as part from generate_series(1, $2::int) n order by n'
  const answers = await Promise.all(
    Array.from({ length: 60 }, (_, at) =>
      (at % 3 === 0 ? unprepared : prepared).hot<{ part: Buffer }>(text, [everyByte.subarray(at), at]),
    ),
  )
  answers.forEach((rows, at) => {
    expect(rows.map(({ part }) => part.toString('hex'))).toEqual(
      Array.from({ length: at }, (_, n) => everyByte.subarray(at, at + n + 1).toString('hex')),
    )
  })
})

test('a copy is its own: what came later does not write over it', async () => {
  const text = 'select $1::bytea as a'
  const kept: Buffer[] = []
  for (let time = 0; time < 50; time++)
    kept.push((await prepared.hot<{ a: Buffer }>(text, [Buffer.alloc(100, time)]))[0]?.a ?? everyByte)
  expect(kept.map((buffer) => buffer[0])).toEqual(Array.from({ length: 50 }, (_, time) => time))
})

test('a statement whose columns have changed since it was prepared is prepared anew', async () => {
  await db.sql`create table public.changing (a bytea)`
  await db.sql`insert into public.changing values (${everyByte})`
  const text = 'select * from public.changing where $1::int = 1'
  const read = () => prepared.calm<{ a: Buffer; n?: number }>(text, [1])
  for (let time = 0; time < 3; time++) expect((await read())[0]?.a.equals(everyByte)).toBe(true)
  await db.sql`alter table public.changing add column n int not null default 3`
  for (let time = 0; time < 3; time++) {
    const [row] = await read()
    expect(row?.n).toBe(3)
    expect(row?.a.equals(everyByte)).toBe(true)
  }
})

test('rows as arrays, raw rows, arrays of bytea and cursors still work', async () => {
  const sql = postgres(db.url, { max: 1 })
  for (let time = 0; time < 2; time++) {
    expect((await sql`select ${everyByte}::bytea as a`.values())[0]?.[0].equals(everyByte)).toBe(true)
    expect((await sql`select ${everyByte}::bytea as a`.raw())[0]?.[0]?.toString()).toBe(
      `\\x${everyByte.toString('hex')}`,
    )
    const list = sql.typed([everyByte, Buffer.alloc(0)] as never, 1001)
    expect((await sql`select unnest(${list}::bytea[]) as a`).map(({ a }) => a.length)).toEqual([256, 0])
    const seen: number[] = []
    await sql`select substring(${everyByte}::bytea for n) as a from generate_series(1, 5) n`.cursor(2, (rows) => {
      seen.push(...rows.map((row) => row.a.length))
    })
    expect(seen).toEqual([1, 2, 3, 4, 5])
  }
  await sql.end()
})

test('of the connections that are free the one that was used last is taken, whatever many at once have opened', async () => {
  const database = connect({ databaseUrl: db.url, pool: 6, prepare: true })
  const backend = async (): Promise<number | undefined> =>
    (await database.hot<{ pid: number }>('select pg_backend_pid() as pid, pg_sleep(0.02)', []))[0]?.pid
  const atOnce = (count: number) => Promise.all(Array.from({ length: count }, backend))
  try {
    const all = new Set(await atOnce(4))
    expect(all.size).toBe(4)
    for (const count of [1, 2, 3, 1]) {
      await atOnce(count)
      const used = new Set<number | undefined>()
      for (let time = 0; time < 4; time++) for (const pid of await atOnce(count)) used.add(pid)
      expect(used.size).toBe(count)
    }
    // More than there are: each of them works, and nobody is forgotten.
    expect(new Set(await atOnce(20))).toEqual(all)
    expect(new Set(await atOnce(4))).toEqual(all)
  } finally {
    await database.close()
  }
})
