/** Migrations while gateways serve. */
import postgres from 'postgres'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { migrate } from '../src/store/index.ts'
import { eventually, type TestDatabase, testDatabase } from './support/postgres.ts'

let database: TestDatabase
beforeEach(async () => {
  database = await testDatabase()
  // As it was before one of the migrations that change a table.
  await database.sql`alter table postern.gateways drop column protocol`
  await database.sql`delete from postern.migrations where tag = '0015_protocol'`
})
afterEach(() => database.drop())

const waiting = async () =>
  (await database.sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
    .length > 0

test('one that has to wait for a table in use does not keep others from it, and goes on when it is free', async () => {
  const reader = postgres(database.url, { max: 1 })
  let migrating: Promise<number> = Promise.resolve(0)
  await reader.begin(async (report) => {
    await report`select 1 from postern.gateways`
    migrating = migrate(database.url)
    await eventually(waiting, 20_000)
    // What a gateway does comes after the migration in the line of the lock.
    const others = database.sql`select 1 from postern.gateways`.then(() => 'answered')
    const late = new Promise((resolve) => setTimeout(resolve, 5000, 'stands still'))
    expect(await Promise.race([others, late])).toBe('answered')
  })
  expect(await migrating).toBe(1)
  await reader.end()
}, 30_000)

test('several at once, and nobody in the way: one of them does it', async () => {
  const applied = await Promise.all([1, 2, 3, 4].map(() => migrate(database.url)))
  expect(applied.sort()).toEqual([0, 0, 0, 1])
}, 30_000)

test('a table that stays in use is said, and nothing was changed', async () => {
  const reader = postgres(database.url, { max: 1 })
  await reader.begin(async (report) => {
    await report`select 1 from postern.gateways`
    await expect(migrate(database.url)).rejects.toMatchObject({
      code: '55P03',
      message: expect.stringContaining('a table is in use'),
    })
  })
  expect(await migrate(database.url)).toBe(1)
  await reader.end()
}, 60_000)
