/** API keys, of which only the hash is kept, and the secrets that all gateways share. */
import { randomBytes } from 'node:crypto'
import type { ApiKey, NewKey, Scope } from '../model/index.ts'
import type { Database } from './client.ts'

type KeyRow = {
  id: string
  name: string
  hash: Buffer
  scopes: Scope[]
  created_at: Date
  expires_at: Date | null
  rate_count: number | null
  rate_per_ms: number | null
}

export async function insertKey(db: Database, key: NewKey & { id: string; hash: Buffer }): Promise<ApiKey> {
  const [row] = await db.calm<KeyRow>(
    `/* insert key */ insert into postern.api_keys (id, name, hash, scopes, expires_at, rate_count, rate_per_ms)
      values ($1, $2, $3::bytea, $4::text::jsonb, $5::timestamptz, $6::int, $7::bigint) returning *`,
    [
      key.id,
      key.name,
      key.hash,
      JSON.stringify(key.scopes),
      key.expiresAt,
      key.rate?.count ?? null,
      key.rate?.perMs ?? null,
    ],
  )
  if (!row) throw new Error('insert key: no row')
  return keyFrom(row)
}

/** Expired keys are not found; Postgres's clock decides. Primary key of `api_keys`. */
export async function findKey(db: Database, id: string): Promise<(ApiKey & { hash: Buffer }) | null> {
  const [row] = await db.calm<KeyRow>(
    '/* find key */ select * from postern.api_keys where id = $1 and (expires_at is null or expires_at > now())',
    [id],
  )
  return row ? { ...keyFrom(row), hash: row.hash } : null
}

/** Oldest first, after the given moment and id. */
export async function listKeys(db: Database, from: { createdAt: Date; id: string }, limit: number): Promise<ApiKey[]> {
  const rows = await db.calm<KeyRow>(
    `/* list keys */ select * from postern.api_keys where (date_trunc('milliseconds', created_at), id) > ($1::timestamptz, $2)
      order by date_trunc('milliseconds', created_at), id limit $3::int`,
    [from.createdAt, from.id, limit],
  )
  return rows.map(keyFrom)
}

export async function deleteKey(db: Database, id: string): Promise<boolean> {
  return (await db.calm('/* delete key */ delete from postern.api_keys where id = $1 returning 1', [id])).length > 0
}

/** The named secret of 32 random bytes; made by whichever gateway asks first. */
export async function sharedSecret(db: Database, name: string): Promise<Buffer> {
  await db.calm(
    '/* make secret */ insert into postern.secrets (name, value) values ($1, $2::bytea) on conflict do nothing',
    [name, randomBytes(32)],
  )
  const [row] = await db.calm<{ value: Buffer }>(
    '/* read secret */ select value from postern.secrets where name = $1',
    [name],
  )
  if (!row) throw new Error(`secret ${name}: no row`)
  return row.value
}

const keyFrom = (row: KeyRow): ApiKey => ({
  id: row.id,
  name: row.name,
  scopes: row.scopes,
  createdAt: row.created_at,
  expiresAt: row.expires_at,
  rate: row.rate_count === null || row.rate_per_ms === null ? null : { count: row.rate_count, perMs: row.rate_per_ms },
})
