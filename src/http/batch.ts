/** Sending many messages at once: each for itself, or all or nothing. */
import { createRoute, z } from '@hono/zod-openapi'
import type { Broker } from '../broker/index.ts'
import {
  BrokerError,
  codes,
  type FieldError,
  invalid,
  messageLimits,
  type NewMessage,
  type Sent,
} from '../model/index.ts'
import { type Answer, json } from './answer.ts'
import { batchIn, type Item, readJsonBatch, readLines } from './batch_items.ts'
import { type Call, type Endpoint, endpoint } from './endpoint.ts'
import { type Exchange, readBody } from './exchange.ts'
import { flagParam, refuse, shortText } from './fields.ts'
import { hasForeignCharset, isJsonType, mediaType, notJson } from './json_body.ts'
import { idempotencyKey, messageHeaderNames, traceOf } from './message_headers.ts'
import { jsonOf, problems, queueParam, security } from './route.ts'

const lineTypes = new Set([
  'application/x-ndjson',
  'application/ndjson',
  'application/jsonl',
  'application/x-jsonlines',
])

const resultsOut = z
  .strictObject({
    results: z.array(
      z.strictObject({
        index: z.int(),
        id: z.string().optional(),
        deduplicated: z.literal(true).optional(),
        error: z.strictObject({ code: z.enum(codes), detail: z.string() }).optional(),
      }),
    ),
  })
  .openapi('BatchResults')

const batchRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/messages/batch',
  operationId: 'sendBatch',
  summary: 'Send up to 1000 messages',
  description:
    'At most 10 MiB. As `application/x-ndjson` each line is the body of one message, in JSON. With an `Idempotency-Key` the same batch may be sent again: what was stored by the first is answered with its id and `deduplicated`.',
  tags: ['messages'],
  security,
  request: {
    params: queueParam,
    headers: z.object({
      'Idempotency-Key': shortText.optional().openapi({
        description:
          'Stands, with the place of each message in the batch, for the dedup_id of those that have none of their own.',
      }),
    }),
    query: z.strictObject({ atomic: flagParam.openapi({ description: 'All messages in one commit, or none.' }) }),
    body: {
      content: {
        'application/json': { schema: batchIn },
        'application/x-ndjson': { schema: { type: 'string' } },
      },
    },
  },
  responses: {
    200: jsonOf(resultsOut, 'What became of each'),
    201: jsonOf(resultsOut, 'All are stored (atomic)'),
    ...problems(401, 403, 404, 413, 415),
  },
})

const batch = endpoint(batchRoute, 'send', async (call) => {
  const items = await readItems(call)
  return call.query.atomic ? sendAll(call, items) : sendEach(call, items)
})

export const batchEndpoints: readonly Endpoint[] = [batch]

async function readItems({ exchange, maxBodyBytes }: Call<typeof batchRoute>): Promise<Item[]> {
  const type = mediaType(exchange)
  const isLines = lineTypes.has(type)
  const retryKey = idempotencyKey(exchange)
  refuseHeadersFor(exchange)
  if ((!isLines && !isJsonType(type)) || hasForeignCharset(exchange))
    throw notJson('application/json or application/x-ndjson')
  const bytes = await readBody(exchange, messageLimits.batchBytes)
  if (bytes.length === 0) throw invalid('/messages', `must be 1 to ${messageLimits.batchMessages} messages`)
  const options = { maxBodyBytes, trace: traceOf(exchange) }
  const items = isLines ? readLines(bytes, options) : readJsonBatch(bytes, options)
  if (retryKey !== null) identify(items, retryKey)
  return items
}

/** What would belong to one message, and of a batch nobody can say to which. */
function refuseHeadersFor(exchange: Exchange): void {
  const names = messageHeaderNames(exchange)
  if (names.length === 0) return
  throw refuse(
    names.map((name) => ({ pointer: `header/${name}`, detail: 'belongs into the headers of each message of a batch' })),
  )
}

/**
 * So that a retry of the batch finds each message of the first. The control character keeps these ids apart from all that callers may give;
 * the place comes first, so that no key is like another's beginning.
 */
function identify(items: readonly Item[], retryKey: string): void {
  for (const [index, item] of items.entries())
    if ('message' in item) item.message.dedupId ??= `${index}\u001f${retryKey}`
}

/** Of one message. */
const errorsShown = 10

type To = { broker: Broker; queue: string }

async function sendAll({ broker, queue }: To, items: readonly Item[]): Promise<Answer<201>> {
  const errors: FieldError[] = []
  const messages: NewMessage[] = []
  for (const item of items) {
    if ('message' in item) messages.push(item.message)
    else errors.push(...item.errors)
  }
  if (errors.length > 0) throw refuse(errors)
  const sent = await broker.send(queue, messages, { atomic: true })
  const refused = sent.find((outcome) => outcome instanceof Error)
  if (refused) throw refused
  return json(201, { results: sent.map(result) })
}

async function sendEach({ broker, queue }: To, items: readonly Item[]): Promise<Answer<200>> {
  const messages = items.flatMap((item) => ('message' in item ? [item.message] : []))
  // With nothing to send, ask all the same, so that an unknown queue is always 404.
  const sent = messages.length > 0 ? await broker.send(queue, messages) : await absent(broker, queue)
  let next = 0
  const results = items.map((item, index) => result('message' in item ? sent[next++] : item, index))
  return json(200, { results })
}

async function absent(broker: Broker, queue: string): Promise<Sent[]> {
  await broker.admin.getQueue(queue)
  return []
}

function result(
  outcome: Sent | Error | Item | undefined,
  index: number,
): z.input<typeof resultsOut>['results'][number] {
  if (outcome && 'id' in outcome) {
    return { index, id: outcome.id, ...(outcome.deduplicated ? { deduplicated: true } : {}) }
  }
  if (outcome instanceof BrokerError) return { index, error: { code: outcome.code, detail: outcome.message } }
  if (outcome && 'errors' in outcome) {
    const shown = outcome.errors.slice(0, errorsShown)
    const rest = outcome.errors.length > errorsShown ? ` (and ${outcome.errors.length - errorsShown} more)` : ''
    const detail = shown.map((error) => `${error.pointer}: ${error.detail}`).join('; ') + rest
    return { index, error: { code: outcome.code, detail } }
  }
  return { index, error: { code: 'internal', detail: 'It may not have been stored.' } }
}
