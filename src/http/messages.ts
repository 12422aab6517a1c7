/** Sending one message, and looking at messages without leasing them. */
import { createRoute, z } from '@hono/zod-openapi'
import { type Answer, empty, json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { checkAnswers, countAnswer } from './exchange.ts'
import { messageState, page, pageOf, timeOut } from './fields.ts'
import { messageJson, messageOut } from './message_out.ts'
import { duplicateOut, messageNotes, messageOptions, messageRequest, readMessage } from './message_request.ts'
import { bodyBytes } from './receive.ts'
import { jsonOf, problems, queueParam, security } from './route.ts'

const tags = ['messages']

const sentOut = z
  .strictObject({ id: z.string(), available_at: timeOut.openapi({ description: 'When it can first be received.' }) })
  .openapi('Sent')

const sendRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/messages',
  operationId: 'sendMessage',
  summary: 'Send a message: the request body is the message',
  description: `Answered after the message is committed. ${messageNotes}`,
  tags,
  security,
  request: { params: queueParam, query: z.strictObject(messageOptions), ...messageRequest },
  responses: {
    200: jsonOf(duplicateOut, 'A message with this dedup_id was sent before'),
    201: { ...jsonOf(sentOut, 'Stored'), headers: z.object({ Location: z.string() }) },
    ...problems(401, 403, 404, 413),
  },
})

const send = endpoint(sendRoute, 'send', async ({ broker, exchange, queue, query, maxBodyBytes }) => {
  const message = await readMessage(exchange, query, maxBodyBytes)
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

const list = endpoint(listRoute, 'read', async ({ broker, exchange, queue, query }) => {
  checkAnswers(exchange)
  const { data, nextCursor } = await broker.admin.browseMessages(queue, query.state ?? 'ready', {
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
  })
  countAnswer(exchange, bodyBytes(data))
  return json(200, { data: data.map(messageJson), next_cursor: nextCursor })
})

export const oneMessage = queueParam.extend({ id: z.string().openapi({ example: 'msg_0000000002s' }) })

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
