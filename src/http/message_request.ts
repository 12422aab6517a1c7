/** A request whose body is the message, to a queue or to a topic: what it may carry, and the NewMessage it becomes. */
import { z } from '@hono/zod-openapi'
import { invalid, limits, type NewMessage } from '../model/index.ts'
import { type Exchange, header, readBody } from './exchange.ts'
import { durationParam, integerParam, refuse, shortText, time } from './fields.ts'
import { headersOf, headerText, idempotencyKey, traceOf, withTrace } from './message_headers.ts'
import {
  contentTypeError,
  type MessageOptions,
  newMessage,
  optionErrors,
  standardType,
  typeOfBody,
} from './message_in.ts'

const nothing = Buffer.alloc(0)

export const messageOptions = {
  delay: durationParam(limits.delayMs).optional(),
  deliver_at: time.optional(),
  ttl: durationParam(limits.ttlMs).optional(),
  priority: integerParam({ min: 0, max: 9 }, 5).optional(),
  key: shortText.optional(),
  dedup_id: shortText.optional(),
}

export const messageRequest = {
  headers: z.object({
    'Idempotency-Key': shortText.optional().openapi({ description: 'The same as dedup_id.' }),
  }),
  body: { content: { '*/*': { schema: { type: 'string', format: 'binary' } } } },
} as const

export const messageNotes =
  'Any Content-Type; `application/x-www-form-urlencoded` whose bytes are JSON text becomes `application/json`. `Postern-Header-NAME` headers are kept as the headers of the message (at most 64, 16 KiB in total), and so are `traceparent` and `tracestate`.'

export const duplicateOut = z
  .strictObject({ id: z.string().openapi({ description: 'Of the first.' }), deduplicated: z.literal(true) })
  .openapi('Duplicate')

/** `query`: the checked options. Throws invalid_value before a byte of the body is read, and body_too_large. */
export async function readMessage(
  exchange: Exchange,
  query: MessageOptions,
  maxBodyBytes: number,
): Promise<NewMessage> {
  const message = describe(exchange, query)
  message.body = await readBody(exchange, maxBodyBytes)
  message.contentType = typeOfBody(message.contentType, message.body)
  return message
}

/** All but the body. */
function describe(exchange: Exchange, query: MessageOptions): NewMessage {
  const { headers, errors } = headersOf(exchange)
  const contentType = headerText(header(exchange, 'content-type') || standardType)
  const wrongType = contentTypeError(contentType)
  if (wrongType) errors.push({ pointer: 'header/content-type', detail: wrongType })
  errors.push(...optionErrors(query, (option) => `query/${option}`))
  if (errors.length > 0) throw refuse(errors)
  const message = newMessage(nothing, contentType, withTrace(headers, traceOf(exchange)), query)
  message.dedupId = dedupId(exchange, query.dedup_id ?? undefined) ?? null
  return message
}

function dedupId(exchange: Exchange, inQuery: string | undefined): string | undefined {
  const given = idempotencyKey(exchange)
  if (given === null) return inQuery
  if (inQuery !== undefined && inQuery !== given)
    throw invalid('header/idempotency-key', 'differs from the dedup_id of the query: give one of them')
  return given
}
