/** Which messages a redrive or a deletion is about, as callers write it: a topic's filter, and what only dead letters have. */
import { z } from '@hono/zod-openapi'
import { type DeathReason, everyLetter, type FieldError, type LetterFilter, parseFilter } from '../model/index.ts'
import { isObject, ownWords, shortText, time } from './fields.ts'
import { stepsOf } from './interest.ts'

const reasons = ['max_attempts', 'rejected', 'expired', 'gone'] as const satisfies readonly DeathReason[]
const mostKeys = 1000

const ofLetters = z.object({
  reason: z
    .array(z.enum(reasons, `must be one of ${reasons.join(', ')}`), 'must be a list of reasons')
    .min(1, 'must not be empty')
    .max(reasons.length, 'has a reason twice')
    .optional(),
  key: z
    .union(
      [shortText.transform((key) => [key]), z.array(shortText).min(1).max(mostKeys)],
      `must be a key, or a list of 1 to ${mostKeys} keys`,
    )
    .optional(),
  died_after: time.optional(),
  died_before: time.optional(),
})

const notes =
  'All must hold. `headers`, `body` and `$or` as in the filter of a binding; of dead letters also `reason` (a list), `died_after` (at that moment or later), `died_before`, and `key` (one, or a list). null: every message.'

/** Errors point into the filter. */
export const letterFilterIn = z
  .unknown()
  .transform((value, context): LetterFilter => {
    if (value === null) return everyLetter
    const { filter, errors } = readLetterFilter(value)
    for (const { pointer, detail } of errors)
      context.addIssue({ code: 'custom', path: stepsOf(pointer), message: detail })
    return filter
  })
  .openapi({
    type: ['object', 'null'],
    additionalProperties: true,
    description: notes,
    example: { reason: ['max_attempts'], body: { total: [{ numeric: ['>', 100] }] } },
  })

function readLetterFilter(value: unknown): { filter: LetterFilter; errors: FieldError[] } {
  if (!isObject(value)) return { filter: everyLetter, errors: [{ pointer: '', detail: 'must be an object of fields' }] }
  const errors: FieldError[] = []
  const own = ofLetters.safeParse(value, ownWords)
  for (const issue of own.error?.issues ?? []) {
    const pointer = issue.path.map((step) => `/${String(step)}`).join('')
    // A text where a list belongs may also be too long for one.
    if (!errors.some((error) => error.pointer === pointer)) errors.push({ pointer, detail: issue.message })
  }
  const rest = Object.fromEntries(Object.entries(value).filter(([name]) => !Object.hasOwn(ofLetters.shape, name)))
  const content = Object.keys(rest).length === 0 ? { filter: null } : parseFilter(rest)
  if ('errors' in content) errors.push(...content.errors)
  const { reason, key, died_after: diedFromMs = null, died_before: diedBeforeMs = null } = own.data ?? {}
  if (diedFromMs !== null && diedBeforeMs !== null && diedFromMs >= diedBeforeMs)
    errors.push({ pointer: '/died_before', detail: 'must be after died_after' })
  return {
    filter: {
      content: 'filter' in content ? content.filter : null,
      reasons: reason ?? null,
      keys: key ?? null,
      diedFromMs,
      diedBeforeMs,
    },
    errors,
  }
}
