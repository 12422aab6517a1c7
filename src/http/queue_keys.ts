/** The keys of keyed and fair queues: what waits behind them, which are blocked, and letting those go on. */
import { createRoute, z } from '@hono/zod-openapi'
import type { QueueKey } from '../model/index.ts'
import { empty, json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { flagParam, page, pageOf, timeOut } from './fields.ts'
import { jsonIn, jsonOf, problems, queueParam, security } from './route.ts'

const tags = ['queues']

const keyOut = z
  .strictObject({
    key: z.string(),
    waiting: z.int().openapi({ description: 'Messages behind those that are under way.' }),
    blocked: z
      .strictObject({
        since: timeOut,
        message_id: z.string().openapi({ description: 'The dead letter that stopped it.' }),
        reason: z.enum(['max_attempts', 'rejected', 'expired', 'gone']),
        last_error: z.string().nullable(),
      })
      .nullable(),
  })
  .openapi('QueueKey')

const listRoute = createRoute({
  method: 'get',
  path: '/v1/queues/{queue}/keys',
  operationId: 'listQueueKeys',
  summary: 'Keys with waiting messages, or only the blocked ones',
  tags,
  security,
  request: { params: queueParam, query: z.strictObject({ ...page, blocked: flagParam }) },
  responses: { 200: jsonOf(pageOf(keyOut).openapi('QueueKeyList'), 'A page'), ...problems(401, 403, 404) },
})

const list = endpoint(listRoute, 'read', async ({ broker, queue, query }) => {
  const { limit = 100, cursor = null, blocked = false } = query
  const { data, nextCursor } = await broker.admin.browseKeys(queue, blocked, { limit, cursor })
  return json(200, { data: data.map(keyJson), next_cursor: nextCursor })
})

const unblockRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/keys/{key}/unblock',
  operationId: 'unblockQueueKey',
  summary: 'Let a blocked key go on',
  description:
    '`retry` tries its dead letter once more, before all others; `drop` leaves it dead and goes on with the next.',
  tags,
  security,
  request: {
    params: queueParam.extend({ key: z.string() }),
    body: jsonIn(
      z
        .strictObject({ action: z.enum(['retry', 'drop'], 'must be retry or drop') }, 'must be an object with action')
        .openapi('Unblock'),
    ),
  },
  responses: { 204: { description: 'It goes on' }, ...problems(401, 403, 404, 409, 413, 415) },
})

const unblock = endpoint(unblockRoute, 'manage', async ({ broker, queue, param, json: readBody }) => {
  const { action } = await readBody()
  await broker.admin.unblockKey(queue, param('key'), action)
  return empty()
})

export const queueKeyEndpoints: readonly Endpoint[] = [list, unblock]

const keyJson = ({ key, waiting, blocked }: QueueKey): z.input<typeof keyOut> => ({
  key,
  waiting,
  blocked: blocked && {
    since: blocked.since.toISOString(),
    message_id: blocked.messageId,
    reason: blocked.reason,
    last_error: blocked.lastError,
  },
})
