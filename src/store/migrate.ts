/** Brings a database to the present schema, however many gateways start at once. */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { open } from './client.ts'

/** Any number that nobody else in the database locks; all gateways of all versions must agree on it. */
const lockId = 4_127_771
const folder = fileURLToPath(new URL('../../migrations/', import.meta.url))

type Journal = { entries: { tag: string; when: number }[] }

/**
 * Applies what is missing, all in one transaction under a transaction-level lock, which also holds behind PgBouncer.
 * Returns how many migrations it applied.
 */
export async function migrate(databaseUrl: string): Promise<number> {
  const sql = open({ databaseUrl, prepare: false }, 1, {})
  try {
    const { entries } = await journal()
    return await sql.begin(async (tx) => {
      await tx.unsafe('select pg_advisory_xact_lock($1)', [lockId])
      await tx.unsafe('create schema if not exists postern')
      await tx.unsafe(
        'create table if not exists postern.migrations (tag text primary key, applied_at timestamptz not null default now())',
      )
      const done = new Set(
        (await tx.unsafe<{ tag: string }[]>('select tag from postern.migrations')).map((row) => row.tag),
      )
      const missing = entries.filter((entry) => !done.has(entry.tag))
      for (const { tag } of missing) {
        await tx.unsafe(await readFile(`${folder}${tag}.sql`, 'utf8')).simple()
        await tx.unsafe('insert into postern.migrations (tag) values ($1)', [tag])
      }
      return missing.length
    })
  } finally {
    await sql.end({ timeout: 5 })
  }
}

/** The newest migration this program knows. */
export async function latestMigration(): Promise<string> {
  return (await journal()).entries.at(-1)?.tag ?? ''
}

const journal = async (): Promise<Journal> =>
  JSON.parse(await readFile(`${folder}meta/_journal.json`, 'utf8')) as Journal
