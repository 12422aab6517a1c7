/** Sending one message, and looking at messages without leasing them. */
import { createRoute, z } from '@hono/zod-openapi'
import { invalid, limits, type NewMessage } from '../model/index.ts'
import { type Answer, empty, json } from './answer.ts'
import { type Call, type Endpoint, endpoint } from './endpoint.ts'
import { type Exchange, header, readBody } from './exchange.ts'
import { durationParam, integerParam, messageState, page, pageOf, refuse, shortText, time, timeOut } from './fields.ts'
import { headersOf, headerText, traceOf, withTrace } from './message_headers.ts'
import { contentTypeError, newMessage, optionErrors, standardType, typeOfBody } from './message_in.ts'
import { messageJson, messageOut } from './message_out.ts'
import { jsonOf, problems, queueParam, security } from './route.ts'

const tags = ['messages']
const nothing = Buffer.alloc(0)

const sentOut = z
  .strictObject({ id: z.string(), available_at: timeOut.openapi({ description: 'When it can first be received.' }) })
  .openapi('Sent')
const duplicateOut = z
  .strictObject({ id: z.string().openapi({ description: 'Of the first.' }), deduplicated: z.literal(true) })
  .openapi('Duplicate')

const sendRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/messages',
  operationId: 'sendMessage',
  summary: 'Send a message: the request body is the message',
  description:
    'Answered after the message is committed. Any Content-Type; `application/x-www-form-urlencoded` whose bytes are JSON text becomes `application/json`. `Postern-Header-NAME` headers are kept as the headers of the message (at most 64, 16 KiB in total), and so are `traceparent` and `tracestate`.',
  tags,
  security,
  request: {
    params: queueParam,
    query: z.strictObject({
      delay: durationParam(limits.delayMs).optional(),
      deliver_at: time.optional(),
      ttl: durationParam(limits.ttlMs).optional(),
      priority: integerParam({ min: 0, max: 9 }, 5).optional(),
      key: shortText.optional(),
      dedup_id: shortText.optional(),
    }),
    headers: z.object({
      'Idempotency-Key': shortText.optional().openapi({ description: 'The same as dedup_id.' }),
    }),
    body: { content: { '*/*': { schema: { type: 'string', format: 'binary' } } } },
  },
  responses: {
    200: jsonOf(duplicateOut, 'A message with this dedup_id was sent before'),
    201: { ...jsonOf(sentOut, 'Stored'), headers: z.object({ Location: z.string() }) },
    ...problems(401, 403, 404, 413, 429),
  },
})

const send = endpoint(sendRoute, 'send', async (call) => {
  const { broker, exchange, queue } = call
  const message = describe(exchange, call.query)
  message.body = await readBody(exchange, call.maxBodyBytes)
  message.contentType = typeOfBody(message.contentType, message.body)
  const [sent] = await broker.send(queue, [message])
  if (!sent) throw new Error('the broker answered nothing')
  if (sent instanceof Error) throw sent
  if (sent.deduplicated) return json(200, { id: sent.id, deduplicated: true })
  return stored(queue, sent.id, sent.availableAt)
})

/** Written by hand: the hot path, and neither an id nor a time needs escaping. */
function stored(queue: string, id: string, availableAt: Date): Answer<201> {
  return {
    status: 201,
    body: `{"id":"${id}","available_at":"${availableAt.toISOString()}"}`,
    headers: { 'Content-Type': 'application/json', Location: `/v1/queues/${queue}/messages/${id}` },
  }
}

/** All but the body, so that a request that is refused anyway is refused before its body is read. */
function describe(exchange: Exchange, query: Call<typeof sendRoute>['query']): NewMessage {
  const { headers, errors } = headersOf(exchange)
  const contentType = headerText(header(exchange, 'content-type') || standardType)
  const wrongType = contentTypeError(contentType)
  if (wrongType) errors.push({ pointer: 'header/content-type', detail: wrongType })
  errors.push(...optionErrors(query, (option) => `query/${option}`))
  if (errors.length > 0) throw refuse(errors)
  const message = newMessage(nothing, contentType, withTrace(headers, traceOf(exchange)), query)
  message.dedupId = dedupId(exchange, query.dedup_id) ?? null
  return message
}

function dedupId(exchange: Exchange, inQuery: string | undefined): string | undefined {
  const given = header(exchange, 'idempotency-key')
  if (given === undefined) return inQuery
  const checked = shortText.safeParse(headerText(given))
  if (!checked.success) throw invalid('header/idempotency-key', checked.error.issues[0]?.message ?? 'is not valid')
  if (inQuery !== undefined && inQuery !== checked.data)
    throw invalid('header/idempotency-key', 'differs from the dedup_id of the query: give one of them')
  return checked.data
}

const listRoute = createRoute({
  method: 'get',
  path: '/v1/queues/{queue}/messages',
  operationId: 'listMessages',
  summary: 'Browse without leasing; changes nothing',
  tags,
  security,
  request: {
    params: queueParam,
    query: z.strictObject({ ...page, state: messageState.optional().openapi({ default: 'ready' }) }),
  },
  responses: {
    200: jsonOf(pageOf(messageOut).openapi('MessageList'), 'A page of at most 16 MiB of bodies'),
    ...problems(401, 403, 404),
  },
})

const list = endpoint(listRoute, 'read', async ({ broker, queue, query }) => {
  const { data, nextCursor } = await broker.admin.browseMessages(queue, query.state ?? 'ready', {
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
  })
  return json(200, { data: data.map(messageJson), next_cursor: nextCursor })
})

const oneMessage = queueParam.extend({ id: z.string().openapi({ example: 'msg_0000000002s' }) })

const getRoute = createRoute({
  method: 'get',
  path: '/v1/queues/{queue}/messages/{id}',
  operationId: 'getMessage',
  summary: 'Look at one message',
  tags,
  security,
  request: { params: oneMessage },
  responses: { 200: jsonOf(messageOut, 'The message'), ...problems(401, 403, 404) },
})

const get = endpoint(getRoute, 'read', async ({ broker, queue, param }) =>
  json(200, messageJson(await broker.admin.getMessage(queue, param('id')))),
)

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/queues/{queue}/messages/{id}',
  operationId: 'deleteMessage',
  summary: 'Delete one message, in whatever state it is',
  tags,
  security,
  request: { params: oneMessage },
  responses: { 204: { description: 'Gone' }, ...problems(401, 403, 404) },
})

const remove = endpoint(deleteRoute, 'manage', async ({ broker, queue, param }) => {
  await broker.admin.deleteMessage(queue, param('id'))
  return empty()
})

export const messageEndpoints: readonly Endpoint[] = [send, list, get, remove]
