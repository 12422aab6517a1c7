/** Which messages a redrive or a deletion is about: the filter language of topics, and what only dead letters have. */
import { compileFilter, type Filter } from './filter.ts'
import { type DeathReason, type Headers, parsedJson } from './message.ts'

/** All that is given must hold. Durable: tasks keep it as JSON. */
export type LetterFilter = {
  /** Over headers and body. */
  content: Filter | null
  reasons: DeathReason[] | null
  keys: string[] | null
  /** Milliseconds since 1970: died at this moment or later … */
  diedFromMs: number | null
  /** … and before this one. */
  diedBeforeMs: number | null
}

export const everyLetter: LetterFilter = {
  content: null,
  reasons: null,
  keys: null,
  diedFromMs: null,
  diedBeforeMs: null,
}

/** `reason` and `diedMs` are null where the message lies among dead letters no more; then its headers may have them. */
export type Letter = {
  headers: Headers
  key: string | null
  reason: DeathReason | null
  diedMs: number | null
  /** null when the filter does not look at bodies. */
  body: Buffer | null
}

/** Headers of a dead letter that its queue's dead-letter queue has taken. */
export const deathHeader = {
  queue: 'postern-dead-queue',
  reason: 'postern-dead-reason',
  at: 'postern-died-at',
} as const

/** Throws a TypeError for a content filter that parseFilter refuses. */
export function compileLetterFilter(filter: LetterFilter): {
  /** Whether bodies have to be read. */
  usesBody: boolean
  matches(letter: Letter): boolean
} {
  const { content, reasons, keys, diedFromMs, diedBeforeMs } = filter
  const compiled = content && compileFilter(content)
  const wantedReasons = reasons && new Set<string>(reasons)
  const wantedKeys = keys && new Set(keys)
  const usesBody = compiled?.usesBody ?? false
  return {
    usesBody,
    matches({ headers, key, reason, diedMs, body }) {
      if (wantedKeys && (key === null || !wantedKeys.has(key))) return false
      if (wantedReasons && !wantedReasons.has(reason ?? headers[deathHeader.reason] ?? '')) return false
      if (diedFromMs !== null || diedBeforeMs !== null) {
        const atMs = diedMs ?? Date.parse(headers[deathHeader.at] ?? '')
        // Written so that NaN, of a message that never died, fails.
        if (!(atMs >= (diedFromMs ?? Number.NEGATIVE_INFINITY) && atMs < (diedBeforeMs ?? Number.POSITIVE_INFINITY)))
          return false
      }
      return !compiled || compiled.matches({ headers, body: usesBody && body ? parsedJson(body) : undefined })
    },
  }
}
