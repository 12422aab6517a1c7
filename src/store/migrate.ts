/** Brings a database to the present schema, however many gateways start at once. */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { random, sleep } from '../base/index.ts'
import { open, type Sql } from './client.ts'

/** Any number that nobody else in the database locks; all gateways of all versions must agree on it. */
const lockId = 4_127_771
const folder = fileURLToPath(new URL('../../migrations/', import.meta.url))

/**
 * Whoever waits for a table in use stands in the way of all who come after it: with a report open on it, the gateways that serve would do
 * nothing until the report is done. So it waits for a moment only, gives way, and tries again.
 */
const lockWaitMs = 500
const giveWayMs = 2_000
const tries = 10
const lockNotAvailable = '55P03'
const tableInUse =
  'The schema could not be changed, because a table is in use: find the transaction in pg_stat_activity by xact_start, and wait until it is over, or end it.'

type Journal = { entries: { tag: string; when: number }[] }

/**
 * Applies what is missing, all in one transaction under a transaction-level lock, which also holds behind PgBouncer.
 * Returns how many migrations it applied. Throws SQLSTATE 55P03 when a table was in use for half a minute.
 */
export async function migrate(databaseUrl: string): Promise<number> {
  const sql = open({ databaseUrl, prepare: false }, 1, {})
  try {
    const { entries } = await journal()
    for (let left = tries - 1; ; left--) {
      // So that a gateway whose role may not change the schema starts once somebody else has.
      if (await isPresent(sql, entries)) return 0
      try {
        return await apply(sql, entries)
      } catch (error) {
        const isInUse = error instanceof Error && 'code' in error && error.code === lockNotAvailable
        if (!isInUse) throw error
        if (left === 0) throw Object.assign(new Error(tableInUse, { cause: error }), { code: lockNotAvailable })
      }
      await sleep(giveWayMs * (0.75 + random() / 2))
    }
  } finally {
    await sql.end({ timeout: 5 })
  }
}

const apply = async (sql: Sql, entries: Journal['entries']): Promise<number> =>
  (await sql.begin(async (tx) => {
    await tx.unsafe('select pg_advisory_xact_lock($1)', [lockId])
    await tx.unsafe('create schema if not exists postern')
    await tx.unsafe(
      'create table if not exists postern.migrations (tag text primary key, applied_at timestamptz not null default now())',
    )
    await tx.unsafe(`set local lock_timeout = '${lockWaitMs}ms'`)
    const done = new Set(
      (await tx.unsafe<{ tag: string }[]>('select tag from postern.migrations')).map((row) => row.tag),
    )
    const missing = entries.filter((entry) => !done.has(entry.tag))
    for (const { tag } of missing) {
      await tx.unsafe(await readFile(`${folder}${tag}.sql`, 'utf8')).simple()
      await tx.unsafe('insert into postern.migrations (tag) values ($1)', [tag])
    }
    return missing.length
  })) as number

async function isPresent(sql: Sql, entries: Journal['entries']): Promise<boolean> {
  const [row] = await sql.unsafe<{ there: boolean }[]>(`select to_regclass('postern.migrations') is not null as there`)
  if (!row?.there) return false
  const done = new Set(
    (await sql.unsafe<{ tag: string }[]>('select tag from postern.migrations')).map(({ tag }) => tag),
  )
  return entries.every(({ tag }) => done.has(tag))
}

/** The migrations that this program knows, in their order. */
export const knownMigrations = async (): Promise<string[]> => (await journal()).entries.map(({ tag }) => tag)

const journal = async (): Promise<Journal> =>
  JSON.parse(await readFile(`${folder}meta/_journal.json`, 'utf8')) as Journal
