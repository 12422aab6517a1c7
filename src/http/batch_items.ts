/**
 * Batches, read item by item: what is wrong with one message is that message's error. A JSON value that is a body is
 * kept as the text that was sent.
 */
import { z } from '@hono/zod-openapi'
import {
  type Code,
  type FieldError,
  type Headers,
  invalid,
  limits,
  messageLimits,
  type NewMessage,
} from '../model/index.ts'
import {
  duration,
  fieldErrors,
  integer,
  isObject,
  isWellFormed,
  ownWords,
  pointerStep,
  refuse,
  shortText,
  time,
} from './fields.ts'
import { checkMembers, parseJson } from './json_body.ts'
import { arrayElements, objectMembers, type Slice } from './json_slices.ts'
import { checkHeaders, withTrace } from './message_headers.ts'
import {
  contentTypeError,
  isJsonText,
  jsonType,
  type MessageOptions,
  newMessage,
  optionErrors,
  standardType,
} from './message_in.ts'

export type Item = { message: NewMessage } | { code: Code; errors: readonly FieldError[] }

/** `trace`: the request's, for messages without their own. */
type ReadOptions = { maxBodyBytes: number; trace: Headers | null }

const textType = 'text/plain; charset=utf-8'

/** Of a message in JSON, whether it is new or there already. */
export const messageFields = {
  body: z.unknown().optional().openapi({
    description: 'A string, or any other JSON value, which is stored as its JSON text exactly as sent.',
  }),
  body_base64: z.string('must be a string').optional(),
  content_type: z.string('must be a string').nullish().openapi({
    description: 'text/plain for a string, application/json for another value, application/octet-stream for base64.',
  }),
  // Handed on as it came: a record would lose a header that is named __proto__.
  headers: z
    .custom<Record<string, unknown>>(isObject, 'must be an object of strings')
    .nullish()
    .openapi({
      type: 'object',
      additionalProperties: { type: 'string' },
    }),
  delay: duration(limits.delayMs).nullish(),
  priority: integer({ min: 0, max: 9 }).nullish(),
}

/** And of a new one. */
export const newMessageFields = {
  ...messageFields,
  ttl: duration(limits.ttlMs).nullish(),
  key: shortText.nullish(),
}

type MessageFields = MessageOptions & {
  content_type?: string | null | undefined
  headers?: Record<string, unknown> | null | undefined
}

export const batchItem = z
  .strictObject(
    { ...newMessageFields, deliver_at: time.nullish(), dedup_id: shortText.nullish() },
    { error: (issue) => (issue.code === 'invalid_type' ? 'must be an object' : undefined) },
  )
  .openapi('BatchMessage', { description: 'Exactly one of body and body_base64.' })

export const batchIn = z
  .strictObject({ messages: z.array(batchItem).min(1).max(messageLimits.batchMessages) })
  .openapi('Batch')

/** Throws malformed_json, and invalid_value when the envelope is wrong. */
export function readJsonBatch(bytes: Buffer, options: ReadOptions): Item[] {
  const { text, value } = parseJson(bytes)
  const messages = messagesOf(value)
  checkCount(messages.length, '/messages')
  checkMembers(messages, '/messages')
  let slices: Slice[] | undefined
  return messages.map((message, at) => {
    const rawBody = (): string => {
      slices ??= arrayElements(text, objectMembers(text, 0).get('messages')?.start ?? 0)
      const body = objectMembers(text, slices[at]?.start ?? 0).get('body')
      return text.slice(body?.start, body?.end)
    }
    return readItem(message, `/messages/${at}`, rawBody, options)
  })
}

function messagesOf(value: unknown): unknown[] {
  if (!isObject(value)) throw invalid('', 'must be an object with messages')
  const unknown = Object.keys(value).filter((key) => key !== 'messages')
  if (unknown.length > 0) throw refuse(unknown.map((key) => ({ pointer: `/${key}`, detail: 'is not known here' })))
  const messages = Object.hasOwn(value, 'messages') ? value.messages : undefined
  if (!Array.isArray(messages)) throw invalid('/messages', 'must be an array of messages')
  return messages
}

/** One message body a line, each JSON, kept byte for byte. Blank lines do not count. */
export function readLines(bytes: Buffer, { maxBodyBytes, trace }: ReadOptions): Item[] {
  const items: Item[] = []
  for (let start = 0; start < bytes.length; ) {
    const newline = bytes.indexOf(10, start)
    const end = newline === -1 ? bytes.length : newline
    const line = bytes.subarray(start, bytes[end - 1] === 13 && end > start ? end - 1 : end)
    start = end + 1
    if (isBlank(line)) continue
    const pointer = `/${items.length}`
    if (line.length > maxBodyBytes) items.push(tooLarge(pointer, maxBodyBytes))
    else if (!isJsonText(line)) items.push({ code: 'malformed_json', errors: [{ pointer, detail: 'is not JSON' }] })
    else items.push({ message: newMessage(line, jsonType, trace, {}) })
    checkCount(items.length, '')
  }
  checkCount(items.length, '')
  return items
}

const isBlank = (line: Buffer): boolean => line.every((byte) => byte === 32 || byte === 9 || byte === 13)

function checkCount(count: number, pointer: string): void {
  const most = messageLimits.batchMessages
  if (count < 1 || count > most) throw invalid(pointer, `must be 1 to ${most} messages`)
}

function readItem(value: unknown, pointer: string, rawBody: () => string, options: ReadOptions): Item {
  const parsed = batchItem.safeParse(value, ownWords)
  if (!parsed.success) return { code: 'invalid_value', errors: fieldErrors(parsed.error, 'body', pointer) }
  return messageFrom(parsed.data, value as Record<string, unknown>, pointer, rawBody, options)
}

/** `item`: the checked fields of `value`; `rawBody`: the text of its body as it was sent. */
export function messageFrom(
  item: MessageFields,
  value: Record<string, unknown>,
  pointer: string,
  rawBody: () => string,
  options: ReadOptions,
): Item {
  const body = bodyOf(value, rawBody)
  const { headers, errors } = checkHeaders(Object.entries(item.headers ?? {}), (name) =>
    name === undefined ? `${pointer}/headers` : `${pointer}/headers/${pointerStep(name)}`,
  )
  const all: FieldError[] = [...errors, ...optionErrors(item, (option) => `${pointer}/${option}`)]
  if ('detail' in body) all.push({ pointer: `${pointer}${body.pointer}`, detail: body.detail })
  const wrongType = item.content_type == null ? null : contentTypeError(item.content_type)
  if (wrongType) all.push({ pointer: `${pointer}/content_type`, detail: wrongType })
  if ('detail' in body || all.length > 0) return { code: 'invalid_value', errors: all }
  if (body.bytes.length > options.maxBodyBytes) return tooLarge(`${pointer}/body`, options.maxBodyBytes)
  return { message: newMessage(body.bytes, item.content_type ?? body.type, withTrace(headers, options.trace), item) }
}

/** `value` is a checked item; a body that is `null` is there all the same. `rawBody`: the text of the member `body`. */
export function bodyOf(
  value: Record<string, unknown>,
  rawBody: () => string,
): { bytes: Buffer; type: string } | { pointer: string; detail: string } {
  const { body, body_base64: base64 } = value
  const hasBody = Object.hasOwn(value, 'body')
  if (hasBody === Object.hasOwn(value, 'body_base64')) {
    return { pointer: '/body', detail: 'exactly one of body and body_base64 is needed' }
  }
  if (!hasBody) {
    const bytes = Buffer.from(String(base64), 'base64')
    // Node decodes leniently; what does not come out the same was not strict base64.
    if (bytes.toString('base64') !== base64)
      return { pointer: '/body_base64', detail: 'is not base64 (RFC 4648, padded)' }
    return { bytes, type: standardType }
  }
  if (typeof body !== 'string') return { bytes: Buffer.from(rawBody()), type: jsonType }
  if (!isWellFormed(body)) return { pointer: '/body', detail: 'has a surrogate without its other half' }
  return { bytes: Buffer.from(body), type: textType }
}

const tooLarge = (pointer: string, limit: number): Item => ({
  code: 'body_too_large',
  errors: [{ pointer, detail: `is larger than ${limit} bytes` }],
})
