/** Databases for tests. */
import { randomBytes } from 'node:crypto'
import postgres from 'postgres'
import { inject } from 'vitest'

export type TestDatabase = {
  url: string
  /** For looking at rows, and for being in the way. */
  sql: postgres.Sql
  drop(): Promise<void>
}

/** A migrated database of its own. */
export async function testDatabase(): Promise<TestDatabase> {
  const server = inject('postgresUrl')
  const name = `test_${randomBytes(6).toString('hex')}`
  await administer(server, `create database ${name} template template_postern`)
  const url = server.replace(/\/postgres$/, `/${name}`)
  const sql = postgres(url, { max: 3, onnotice: () => {} })
  return {
    url,
    sql,
    async drop() {
      await sql.end({ timeout: 1 })
      await administer(server, `drop database ${name} with (force)`)
    },
  }
}

async function administer(server: string, statement: string): Promise<void> {
  const root = postgres(server, { max: 1, onnotice: () => {} })
  try {
    await root.unsafe(statement)
  } finally {
    await root.end()
  }
}

/** Waits until `holds` returns something other than false, null or undefined; fails after `ms`. */
export async function eventually<T>(
  holds: () => T | Promise<T>,
  ms = 10_000,
): Promise<Exclude<T, false | null | undefined>> {
  const endMs = performance.now() + ms
  for (;;) {
    const value = await holds()
    if (value !== false && value != null) return value as Exclude<T, false | null | undefined>
    if (performance.now() > endMs) throw new Error(`Did not happen within ${ms} ms: ${holds}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
