/** Whether this database can serve. */
import type { Database } from './client.ts'

/** Postgres's clock, milliseconds since 1970. */
export async function databaseNowMs(db: Database): Promise<number> {
  const [row] = await db.calm<{ ms: number }>(`/* now */ select date_part('epoch', now()) * 1000 as ms`, [])
  return row?.ms ?? 0
}

/** Which of these migrations the database has not had, and whether it can be written to. */
export async function standing(
  db: Database,
  known: readonly string[],
): Promise<{ missing: string[]; readOnly: boolean }> {
  const [row] = await db.calm<{ there: boolean; read_only: boolean }>(
    `/* standing */ select to_regclass('postern.migrations') is not null as there, pg_is_in_recovery() as read_only`,
    [],
  )
  const readOnly = row?.read_only ?? false
  if (!row?.there) return { missing: [...known], readOnly }
  const rows = await db.calm<{ tag: string }>('/* migrations */ select tag from postern.migrations', [])
  const done = new Set(rows.map(({ tag }) => tag))
  return { missing: known.filter((tag) => !done.has(tag)), readOnly }
}
