/** Query strings, read so that nothing is guessed: a parameter that is unknown, repeated or not decodable is refused by name. */
import { z } from '@hono/zod-openapi'
import { BrokerError, type FieldError } from '../model/index.ts'
import { fieldErrors, ownWords, refuse } from './fields.ts'

/** Values by name after decoding (`+` is a space). Throws malformed_request, or invalid_value for a repeated one. */
export function splitQuery(search: string): Record<string, string> {
  const values: Record<string, string> = Object.create(null)
  const repeated: FieldError[] = []
  for (const pair of search.split('&')) {
    if (pair === '') continue
    const equals = pair.indexOf('=')
    const name = decode(equals === -1 ? pair : pair.slice(0, equals))
    if (name in values) repeated.push({ pointer: `query/${name}`, detail: 'is given more than once' })
    values[name] = equals === -1 ? '' : decode(pair.slice(equals + 1))
  }
  if (repeated.length > 0) throw refuse(repeated)
  return values
}

/** A function from the query string to the schema's values. Most calls have none, so that result is worked out once. */
export function queryReader(schema: z.ZodType = z.strictObject({})): (search: string) => unknown {
  const withoutAny = schema.safeParse({})
  return (search) => {
    if (search === '' && withoutAny.success) return withoutAny.data
    const result = schema.safeParse(splitQuery(search), ownWords)
    if (result.success) return result.data
    throw refuse(fieldErrors(result.error, 'query'))
  }
}

/** Throws malformed_request when a percent sign is not followed by what makes a character. */
export function decode(text: string): string {
  if (!text.includes('%') && !text.includes('+')) return text
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    throw new BrokerError('malformed_request', 'The URL is not correctly percent-encoded UTF-8.')
  }
}

/** The same for a path, where a plus sign is a plus sign. */
export function checkPath(path: string): void {
  if (path.includes('%')) decode(path.replaceAll('+', ''))
}
