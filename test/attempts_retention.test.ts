/** The log of attempts keeps the newest of each subscription, and nothing that is old. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { connect, type Database, trimAttempts, trimAttemptsOf } from '../src/store/index.ts'
import { type TestDatabase, testDatabase } from './support/postgres.ts'

let database: TestDatabase
let db: Database
const numbers: number[] = []

beforeAll(async () => {
  database = await testDatabase()
  db = connect({ databaseUrl: database.url, pool: 3, prepare: true })
  for (const name of ['few', 'many', 'none'])
    numbers.push(
      (
        await database.sql<{ id: number }[]>`
          insert into postern.subscriptions (name, queue_id, url, format, headers, timeout_ms, concurrency, retry)
          values (${name}, 1, 'http://127.0.0.1/', 'raw', '{}', 1000, 1, '{}') returning id`
      )[0]?.id ?? 0,
    )
})
afterAll(async () => {
  await db.close()
  await database.drop()
})

const insert = (subscription: number | undefined, count: number, age: string) =>
  database.sql`
    insert into postern.attempts (subscription_id, message_id, attempt, at, succeeded, duration_ms, request_headers, response_headers, response_body)
    select ${subscription ?? 0}, n, 1, now() - ${age}::interval, true, 1, '{}', '{}', '' from generate_series(1, ${count}::int) n`
const kept = async (subscription: number | undefined) =>
  (
    await database.sql<{ message_id: string }[]>`
      select message_id from postern.attempts where subscription_id = ${subscription ?? 0} order by id`
  ).map((row) => Number(row.message_id))

test('of each subscription the newest stay, a bounded number at a time, over all subscriptions', async () => {
  const [few, many] = numbers
  await insert(few, 3, '1 minute')
  await insert(many, 25, '1 minute')
  let at: number | null = 0
  let steps = 0
  // One subscription and ten attempts a step; the walk ends by itself.
  for (; at !== null && steps < 50; steps++) at = await trimAttemptsOf(db, at, 1, 5, 10)
  expect(at).toBeNull()
  expect(steps).toBeGreaterThan(3)
  expect(await kept(few)).toEqual([1, 2, 3])
  expect(await kept(many)).toEqual([21, 22, 23, 24, 25])
})

test('what is older than its time goes, oldest first, a bounded number at a time', async () => {
  const [, , none] = numbers
  await database.sql`delete from postern.attempts`
  await insert(none, 15, '8 days')
  await insert(none, 2, '6 days')
  const week = 7 * 86_400_000
  expect([
    await trimAttempts(db, week, 10),
    await trimAttempts(db, week, 10),
    await trimAttempts(db, week, 10),
  ]).toEqual([10, 5, 0])
  expect(await kept(none)).toEqual([1, 2])
})
