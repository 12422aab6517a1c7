/** Pages of lists: a cursor is where to go on, opaque to callers. */
import { invalid } from '../model/index.ts'
import type { Page, PageOptions } from './types.ts'

export const encodeCursor = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

/** Throws invalid_value for what is no cursor of ours. */
export function decodeCursor<T>(cursor: string | null): T | null {
  if (cursor === null) return null
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString())
    const parts = typeof value === 'object' && value !== null ? Object.values(value) : [value]
    if (parts.every((part) => typeof part === 'number' || typeof part === 'string')) return value as T
  } catch {}
  throw notOurs()
}

const notOurs = () => invalid('query/cursor', 'not a cursor of this list')

/** A page of what a caller may see, of a list that is ordered by name. `read` answers up to `count` after a name. */
export async function pageByName<T extends { name: string }>(
  read: (afterName: string, count: number) => Promise<T[]>,
  { limit, cursor }: PageOptions,
  may: (name: string) => boolean,
): Promise<Page<T>> {
  const shown: T[] = []
  const from = decodeCursor<unknown>(cursor) ?? ''
  if (typeof from !== 'string') throw notOurs()
  let after = from
  let more = true
  while (more && shown.length < limit) {
    const some = await read(after, limit + 1)
    more = some.length > limit
    for (const item of some) {
      if (shown.length === limit) {
        more = true
        break
      }
      after = item.name
      if (may(item.name)) shown.push(item)
    }
  }
  return { data: shown, nextCursor: more ? encodeCursor(after) : null }
}
