/** Whether this database can serve. */
import type { Database } from './client.ts'
import { latestMigration } from './migrate.ts'

/** Sentences for people; empty when the database answers and has every migration that this program knows. */
/** Postgres's clock, milliseconds since 1970. */
export async function databaseNowMs(db: Database): Promise<number> {
  const [row] = await db.calm<{ ms: number }>(`/* now */ select date_part('epoch', now()) * 1000 as ms`, [])
  return row?.ms ?? 0
}

export async function problems(db: Database): Promise<string[]> {
  const latest = await latestMigration()
  const [row] = await db.calm<{ migrated: boolean; writable: boolean }>(
    `/* health */ select exists (select 1 from postern.migrations where tag = $1) as migrated, not pg_is_in_recovery() as writable`,
    [latest],
  )
  const found: string[] = []
  if (!row?.migrated) found.push(`The migration ${latest} is missing: run "postern migrate".`)
  if (!row?.writable) found.push('The database is a read-only replica.')
  return found
}
