/** Pages of lists: a cursor is where to go on, opaque to callers. */
import { invalid } from '../model/index.ts'
import type { Page, PageOptions } from './types.ts'

export const encodeCursor = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

/** The fields of a cursor, in the shape of `like`: numbers, and texts that Postgres takes. Throws invalid_value for what is not ours. */
export function decodeCursor<T extends Record<string, number | string>>(cursor: string | null, like: T): T {
  if (cursor === null) return like
  const value = parsed(cursor)
  const fits = Object.entries(like).every(([name, example]) => {
    const part = value[name]
    if (typeof example === 'number') return typeof part === 'number' && Math.abs(part) <= Number.MAX_SAFE_INTEGER
    return typeof part === 'string' && !part.includes('\0')
  })
  if (!fits || Object.keys(value).length !== Object.keys(like).length) throw notOurs()
  return value as T
}

/** A cursor that is one text, or one whole number. */
export const textCursor = (cursor: string | null): string => decodeCursor(cursor, { after: '' }).after
export function wholeCursor(cursor: string | null, first: number): number {
  const { after } = decodeCursor(cursor, { after: first })
  if (!Number.isSafeInteger(after)) throw notOurs()
  return after
}

function parsed(cursor: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString())
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch {}
  throw notOurs()
}

const notOurs = () => invalid('query/cursor', 'not a cursor of this list')

/** Of up to `limit` + 1 rows a page, each made into what is shown; `cursorOf` names the last one shown. */
export function cutPage<Row, T>(
  rows: readonly Row[],
  limit: number,
  shown: (row: Row) => T,
  cursorOf: (last: Row) => Record<string, number | string>,
): Page<T> {
  const last = rows.length > limit ? rows[limit - 1] : undefined
  return { data: rows.slice(0, limit).map(shown), nextCursor: last ? encodeCursor(cursorOf(last)) : null }
}

/** Rows to read for a page, some of which the caller may not see: pages of one must not take a statement for each of those. */
export const readAtOnce = (limit: number): number => Math.max(limit + 1, 200)

/** A page of what a caller may see, of a list that is ordered by name. `read` answers up to `count` after a name. */
export async function pageByName<T extends { name: string }>(
  read: (afterName: string, count: number) => Promise<T[]>,
  { limit, cursor }: PageOptions,
  may: (name: string, item: T) => boolean,
): Promise<Page<T>> {
  const shown: T[] = []
  let after = textCursor(cursor)
  let more = true
  while (more && shown.length < limit) {
    const count = readAtOnce(limit)
    const some = await read(after, count)
    more = some.length === count
    for (const item of some) {
      if (shown.length === limit) {
        more = true
        break
      }
      after = item.name
      if (may(item.name, item)) shown.push(item)
    }
  }
  return { data: shown, nextCursor: more ? encodeCursor({ after }) : null }
}
