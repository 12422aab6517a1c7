/**
 * What the routes' schemas are made of. Each field says in one place what it accepts, what it becomes inside, how it is
 * printed in openapi.yaml, and what a caller reads who got it wrong.
 */
import { z } from '@hono/zod-openapi'
import {
  type Action,
  actions,
  BrokerError,
  type FieldError,
  formatDuration,
  messageLimits,
  messageStates,
  namePattern,
  parseDuration,
  parseRate,
  type Rate,
  ratePattern,
} from '../model/index.ts'
import { parseTime } from './rfc3339.ts'

type Range = { min: number; max: number }

const durationPattern = '^\\d+(\\.\\d+)?(ms|s|m|h|d)?$'
/** The `u` flag makes this match only surrogates without their other half. */
const loneSurrogate = /\p{Surrogate}/u
const control = /\p{Cc}/u

/** What is said where a schema has no words of its own, instead of the validator's. For `safeParse`. */
export const ownWords: z.core.ParseContext<z.core.$ZodIssue> = {
  error(issue) {
    if (issue.code === 'invalid_type') return expectations[issue.expected] ?? 'is not valid'
    if (issue.code === 'too_small') return `must ${measureOf(issue.origin)} at least ${issue.minimum}`
    if (issue.code === 'too_big') return `must ${measureOf(issue.origin)} at most ${issue.maximum}`
    if (issue.code === 'invalid_value') return `must be one of ${issue.values.join(', ')}`
    return 'is not valid'
  },
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const measureOf = (origin: string): string => (origin === 'number' || origin === 'int' ? 'be' : 'have')

const expectations: Record<string, string> = {
  object: 'must be an object',
  record: 'must be an object',
  array: 'must be an array',
  string: 'must be a string',
  number: 'must be a number',
  int: 'must be a whole number',
  boolean: 'must be true or false',
}

/** Where zod's issue lies: a JSON pointer into the body, or `query/NAME`. An unknown field is named itself. */
export function fieldErrors(error: z.ZodError, within: 'body' | 'query' | 'path', prefix = ''): FieldError[] {
  return error.issues.flatMap((issue) => {
    const unknown = issue.code === 'unrecognized_keys' ? issue.keys : []
    const detail = unknown.length > 0 ? 'is not known here' : issue.message
    const paths = unknown.length > 0 ? unknown.map((key) => [...issue.path, key]) : [issue.path]
    return paths.map((path) => ({
      pointer: within === 'body' ? `${prefix}${jsonPointer(path)}` : `${within}/${path.join('/')}`,
      detail,
    }))
  })
}

/** The 422 for several fields. */
export function refuse(errors: readonly FieldError[]): BrokerError {
  const [first] = errors
  const rest = errors.length > 1 ? ` (and ${errors.length - 1} more)` : ''
  return new BrokerError('invalid_value', first ? `${first.pointer || 'The body'}: ${first.detail}${rest}` : '', {
    errors: errors.slice(0, 100),
  })
}

/** A name as a step of a JSON pointer (RFC 6901). */
export const pointerStep = (name: string): string => name.replaceAll('~', '~0').replaceAll('/', '~1')

const jsonPointer = (path: readonly PropertyKey[]): string =>
  path.map((step) => `/${pointerStep(String(step))}`).join('')

export const name = z
  .string('must be a string')
  .regex(namePattern, 'must be 1–80 of A–Z a–z 0–9 . _ - and begin with a letter or a digit')
  .openapi({ example: 'orders' })

/** Number of seconds or text with a unit; whole milliseconds inside. */
export const duration = (range: Range) =>
  z
    .union([z.string(), z.number()], 'must be a duration: a number of seconds, or 500ms, 30s, 5m, 2h, 7d')
    .transform((value, context) => toMs(value, range, context))
    .openapi({
      anyOf: [{ type: 'string', pattern: durationPattern }, { type: 'number' }],
      description: `Seconds, or with a unit: 500ms 30s 5m 2h 7d. ${between(range)}`,
      example: '30s',
    })

/** The same in a query string. */
export const durationParam = (range: Range) =>
  z
    .string()
    .transform((value, context) => toMs(value, range, context))
    .openapi({
      type: 'string',
      pattern: durationPattern,
      description: `Seconds, or with a unit: 500ms 30s 5m 2h 7d. ${between(range)}`,
      example: '30s',
    })

function toMs(value: string | number, range: Range, context: z.RefinementCtx): number {
  const ms = parseDuration(value)
  if (ms !== null && ms >= range.min && ms <= range.max) return ms
  const shape = 'must be a duration: a number of seconds, or 500ms, 30s, 5m, 2h, 7d'
  context.addIssue({ code: 'custom', message: ms === null ? shape : `must be ${between(range)}` })
  return z.NEVER
}

const between = ({ min, max }: Range): string => `${formatDuration(min)} to ${formatDuration(max)}`

/** RFC 3339; milliseconds since 1970 inside. An unencoded `+` of the zone arrives in a query string as a space. */
export const time = z
  .string('must be a time as RFC 3339 writes it, such as 2030-01-31T09:00:00Z')
  .transform((value, context) => {
    const ms = parseTime(value.replace(/ (?=\d\d:\d\d$)/, '+'))
    if (ms !== null) return ms
    context.addIssue({
      code: 'custom',
      message: 'must be a time as RFC 3339 writes it, such as 2030-01-31T09:00:00Z',
    })
    return z.NEVER
  })
  .openapi({ type: 'string', format: 'date-time' })

export const integer = ({ min, max }: Range) =>
  z
    .int(`must be a whole number from ${min} to ${max}`)
    .min(min, `must be at least ${min}`)
    .max(max, `must be at most ${max}`)

/** A whole number in a query string: digits and nothing else. */
export const integerParam = ({ min, max }: Range, standard?: number) =>
  z
    .string()
    .transform((value, context) => {
      const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN
      if (number >= min && number <= max) return number
      context.addIssue({ code: 'custom', message: `must be a whole number from ${min} to ${max}` })
      return z.NEVER
    })
    .openapi({
      type: 'integer',
      minimum: min,
      maximum: max,
      ...(standard === undefined ? {} : { default: standard }),
    })

/** `?flag`, `?flag=true` or `?flag=false`. */
export const flagParam = z
  .enum(['', 'true', 'false'], 'must be true or false')
  .transform((value) => value !== 'false')
  .optional()
  .openapi({ type: 'boolean', default: false })

/** So many in so long; null takes it back. */
export const rateIn = (most: number) => {
  const text = `must be a number from 1 to ${most} and a unit, such as 10/s, 600/m, 5000/h`
  return z
    .string(text)
    .transform((given, context): Rate => {
      const rate = parseRate(given)
      if (rate && rate.count <= most) return rate
      context.addIssue({ code: 'custom', message: text })
      return z.NEVER
    })
    .nullish()
    .openapi({ type: ['string', 'null'], pattern: ratePattern, example: '10/s' })
}

/** Text that is stored and compared: keys, dedup ids. */
export const shortText = z
  .string('must be a string')
  .refine(
    (text) =>
      text.length > 0 && text.length <= messageLimits.textLength && !control.test(text) && !loneSurrogate.test(text),
    `must be 1–${messageLimits.textLength} characters without control characters`,
  )
  .openapi({ minLength: 1, maxLength: messageLimits.textLength })

/** Whether every surrogate has its other half, so that the text survives as UTF-8. */
export const isWellFormed = (text: string): boolean => !loneSurrogate.test(text)

export const page = {
  limit: integerParam({ min: 1, max: 1000 }, 100).optional(),
  cursor: z.string().min(1, 'must not be empty').max(1024, 'is not a cursor').optional(),
}

export const action: z.ZodType<Action> = z.enum(actions, `must be one of ${actions.join(', ')}`)
export const messageState = z.enum(messageStates, `must be one of ${messageStates.join(', ')}`)

/** Shapes of answers, for openapi.yaml and the tests. */
export const timeOut = z.string().openapi({ format: 'date-time' })
export const durationOut = z.string().openapi({ example: '30s', description: 'Shortest exact form: 90s, 5m, 500ms.' })
export const rateOut = z.string().nullable().openapi({ example: '10/s' })
export const pageOf = <T extends z.ZodType>(item: T) =>
  z.strictObject({ data: z.array(item), next_cursor: z.string().nullable() })
