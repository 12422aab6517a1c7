/** Messages that nobody holds, changed one at a time or deleted by a filter. */
import { createRoute, z } from '@hono/zod-openapi'
import {
  BrokerError,
  everyLetter,
  type FieldError,
  invalid,
  type MessageChanges,
  messageLimits,
  taskLimits,
} from '../model/index.ts'
import { json } from './answer.ts'
import { bodyOf, messageFields } from './batch_items.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { type Exchange, hangUp } from './exchange.ts'
import { integer, pointerStep, refuse, time } from './fields.ts'
import { check, readJsonText } from './json_body.ts'
import { objectMembers } from './json_slices.ts'
import { letterFilterIn } from './letter_filter.ts'
import { checkHeaders } from './message_headers.ts'
import { contentTypeError, defaultPriority, optionErrors, standardType } from './message_in.ts'
import { messageJson, messageOut } from './message_out.ts'
import { oneMessage } from './messages.ts'
import { jsonIn, jsonOf, objectOf, problems, queueParam, security } from './route.ts'

const tags = ['messages']

const changesIn = objectOf(
  {
    ...messageFields,
    deliver_at: time.nullish(),
    content_type: messageFields.content_type.openapi({ description: 'Stays unless given.' }),
  },
  'must be an object of what is to change',
).openapi('MessageChanges', {
  description:
    'What is not given stays as it is. Of body and body_base64 at most one, of delay and deliver_at at most one. null: no headers, application/octet-stream, priority 5, no delay.',
})

const changeRoute = createRoute({
  method: 'patch',
  path: '/v1/queues/{queue}/messages/{id}',
  operationId: 'changeMessage',
  summary: 'Change a ready or delayed message, or a dead letter; it keeps its id',
  description:
    'A ready message that gets a delay becomes delayed, a delayed one without a delay ready; with another priority it goes behind those that have it. A dead letter has no delay. A leased message is refused. On a keyed queue a message keeps its key and its place in its order.',
  tags,
  security,
  request: { params: oneMessage, body: jsonIn(changesIn) },
  responses: { 200: jsonOf(messageOut, 'As it is now'), ...problems(401, 403, 404, 409, 413, 415) },
})

const change = endpoint(changeRoute, 'manage', async ({ broker, exchange, queue, param, maxBodyBytes }) => {
  const changes = await readChanges(exchange, maxBodyBytes)
  return json(200, messageJson(await broker.admin.changeMessage(queue, param('id'), changes)))
})

/** Throws invalid_value, body_too_large, malformed_json, unsupported_media_type. */
async function readChanges(exchange: Exchange, maxBodyBytes: number): Promise<MessageChanges> {
  const { text, value } = await readJsonText(exchange, messageLimits.batchBytes)
  const given = check(changesIn, value) as z.output<typeof changesIn>
  if (Object.keys(given).length === 0) throw invalid('', 'must have at least one member: what is to change')
  const errors: FieldError[] = []
  const changes: MessageChanges = {}
  if (Object.hasOwn(given, 'body') || Object.hasOwn(given, 'body_base64')) {
    const body = bodyOf(value as Record<string, unknown>, () => {
      const slice = objectMembers(text, 0).get('body')
      return text.slice(slice?.start, slice?.end)
    })
    if ('detail' in body) errors.push(body)
    else if (body.bytes.length > maxBodyBytes)
      throw new BrokerError('body_too_large', `The body is larger than ${maxBodyBytes} bytes.`)
    else changes.body = body.bytes
  }
  readOptions(given, changes, errors)
  if (errors.length > 0) throw refuse(errors)
  return changes
}

function readOptions(given: z.output<typeof changesIn>, changes: MessageChanges, errors: FieldError[]): void {
  if (given.content_type !== undefined) {
    changes.contentType = given.content_type ?? standardType
    const detail = contentTypeError(changes.contentType)
    if (detail) errors.push({ pointer: '/content_type', detail })
  }
  if (given.headers !== undefined) {
    const checked = checkHeaders(Object.entries(given.headers ?? {}), (name) =>
      name === undefined ? '/headers' : `/headers/${pointerStep(name)}`,
    )
    changes.headers = checked.headers
    errors.push(...checked.errors)
  }
  if (given.priority !== undefined) changes.priority = given.priority ?? defaultPriority
  errors.push(...optionErrors(given, (option) => `/${option}`))
  if (given.deliver_at != null) changes.deliverAtMs = given.deliver_at
  else if (given.delay !== undefined || given.deliver_at !== undefined) changes.delayMs = given.delay ?? 0
}

const states = ['dead', 'ready', 'delayed'] as const

const deletionIn = objectOf(
  {
    state: z.enum(states, `must be one of ${states.join(', ')}`),
    filter: letterFilterIn.optional(),
    limit: integer(taskLimits.letters).nullish().openapi({ description: 'At most so many.' }),
  },
  'must be an object with state, and optionally filter and limit',
).openapi('Deletion')

const deleteRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/messages/delete',
  operationId: 'deleteMessages',
  summary: 'Delete the messages that a filter matches',
  description: 'Of those that are there when it begins. It goes on until all are looked at, or the caller hangs up.',
  tags,
  security,
  request: { params: queueParam, body: jsonIn(deletionIn) },
  responses: {
    200: jsonOf(z.strictObject({ deleted: z.int() }).openapi('Deleted'), 'How many were deleted'),
    ...problems(401, 403, 404, 413, 415),
  },
})

const removeMany = endpoint(deleteRoute, 'manage', async ({ broker, exchange, queue, json: readBody }) => {
  const { state, filter = everyLetter, limit = null } = await readBody()
  const signal = hangUp(exchange)
  return json(200, { deleted: await broker.admin.deleteMessages(queue, state, { filter, limit, signal }) })
})

export const messageChangeEndpoints: readonly Endpoint[] = [change, removeMany]
