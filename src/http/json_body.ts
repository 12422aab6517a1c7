/** JSON request bodies: what counts as one, and how a broken one is told from a wrong one. */
import { isUtf8 } from 'node:buffer'
import type { z } from '@hono/zod-openapi'
import { BrokerError, invalid } from '../model/index.ts'
import { type Exchange, hasBody, header, readBody, releaseBody } from './exchange.ts'
import { fieldErrors, ownWords, pointerStep, refuse } from './fields.ts'

/** Lower case, without parameters; '' when none is declared. */
export const mediaType = (exchange: Exchange): string =>
  (header(exchange, 'content-type') ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? ''

/** No type is taken as JSON, and so is the one that `curl -d` declares by itself. */
export function isJsonType(type: string): boolean {
  return (
    type === '' ||
    type === 'application/json' ||
    type === 'application/x-www-form-urlencoded' ||
    (type.startsWith('application/') && type.endsWith('+json'))
  )
}

/** Whether the body is declared to be text in anything but UTF-8. */
export const hasForeignCharset = (exchange: Exchange): boolean =>
  /;\s*charset\s*=\s*(?!"?utf-?8\b)/i.test(header(exchange, 'content-type') ?? '')

/** The body by a schema. An empty one is `{}`. Throws unsupported_media_type, body_too_large, malformed_json, invalid_value. */
export async function readJson(exchange: Exchange, schema: z.ZodType, limit: number): Promise<unknown> {
  return check(schema, (await readJsonText(exchange, limit)).value)
}

/** The same as it was sent, and what it says. */
export async function readJsonText(exchange: Exchange, limit: number): Promise<{ text: string; value: unknown }> {
  if (!hasBody(exchange)) return nothing
  if (!isJsonType(mediaType(exchange)) || hasForeignCharset(exchange)) throw notJson('application/json')
  const bytes = await readBody(exchange, limit)
  return bytes.length === 0 ? nothing : parseJson(bytes)
}

const nothing = { text: '{}', value: {} }

/** Some clients always send a body, if only a line break or `{}`. */
const emptyBytes = 4096

/**
 * For a call that takes no body: lets an empty one pass. Throws invalid_value for any other, without reading all of a long one, because
 * whoever sends one means something by it. `parameters`: what the query may say instead.
 */
export async function refuseBody(exchange: Exchange, parameters: readonly string[]): Promise<void> {
  const text = (await readBody(exchange, emptyBytes).catch(tooLongToBeEmpty))?.toString('latin1').trim()
  releaseBody(exchange)
  if (text === '' || (text !== undefined && /^\{\s*\}$/.test(text))) return
  const instead = parameters.length > 0 ? `; its parameters go into the query: ${parameters.join(', ')}` : ''
  throw invalid('', `must be empty: this call takes no body${instead}`)
}

function tooLongToBeEmpty(error: unknown): undefined {
  if (!(error instanceof BrokerError && error.code === 'body_too_large')) throw error
}

export const notJson = (wanted: string): BrokerError =>
  new BrokerError('unsupported_media_type', `The body must be ${wanted}, in UTF-8.`)

/** Throws malformed_json. Nesting may be of any depth: V8's parser does not recurse. */
export function parseJson(bytes: Buffer): { text: string; value: unknown } {
  if (isUtf8(bytes)) {
    const text = bytes.toString('utf8')
    try {
      return { text, value: JSON.parse(text) }
    } catch {
      // Its message quotes the body, which belongs in no answer and no log.
    }
  }
  throw new BrokerError('malformed_json', 'The body is not JSON.')
}

/**
 * Members of one list or object of a JSON body; the longest that is valid has a thousand. Schemas report each wrong member: measured, a
 * list of four million numbers where receipts belong took 17 s and 2.8 GB.
 */
const mostMembers = 10_000
/** Deeper than any schema; filters bound themselves. */
const deepest = 6

/** Throws invalid_value. */
export function check<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  checkMembers(value, '', 0)
  const result = schema.safeParse(value, ownWords)
  if (result.success) return result.data
  throw refuse(fieldErrors(result.error, 'body'))
}

/** Throws invalid_value where a list or an object is longer than any may be. What lies in a `body` is a message's own. */
export function checkMembers(value: unknown, pointer: string, depth = 0): void {
  if (typeof value !== 'object' || value === null || depth > deepest) return
  const members = Array.isArray(value) ? value.length : Object.keys(value).length
  if (members > mostMembers) throw invalid(pointer, `must have at most ${mostMembers} members`)
  for (const [name, member] of Object.entries(value))
    if (typeof member === 'object' && name !== 'body')
      checkMembers(member, `${pointer}/${pointerStep(name)}`, depth + 1)
}
