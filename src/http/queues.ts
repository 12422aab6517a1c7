/** Queues: create or change, look at, pause, purge, delete. */
import { createRoute, z } from '@hono/zod-openapi'
import type { QueueWithCounts } from '../broker/index.ts'
import { allows, BrokerError, forecastLimits, type MessageState, messageStates } from '../model/index.ts'
import { empty, json } from './answer.ts'
import { type Call, type Endpoint, endpoint, forbidden } from './endpoint.ts'
import { durationParam, flagParam, page, pageOf } from './fields.ts'
import { queueJson, queueOut, settingsIn } from './queue_settings.ts'
import { jsonIn, jsonOf, problems, queueParam, security } from './route.ts'

const tags = ['queues']

const putRoute = createRoute({
  method: 'put',
  path: '/v1/queues/{queue}',
  operationId: 'putQueue',
  summary: 'Create a queue, or change the settings given',
  tags,
  security,
  request: { params: queueParam, body: jsonIn(settingsIn) },
  responses: {
    200: jsonOf(queueOut, 'The queue was there; the settings given are changed'),
    201: {
      ...jsonOf(queueOut, 'Created'),
      headers: z.object({ Location: z.string() }),
    },
    ...problems(401, 403, 409, 413, 415),
  },
})

const put = endpoint(putRoute, 'manage', async (call) => {
  const { broker, queue, principal } = call
  const settings = await call.json()
  const target = settings.deadLetterQueue
  // Otherwise a key could write into a queue that it may not touch, by way of dead letters.
  if (
    target &&
    !(principal && (allows(principal, 'manage', 'queues', target) || allows(principal, 'send', 'queues', target)))
  )
    throw forbidden('send', target)
  const { queue: stored, created } = await broker.admin.putQueue(queue, settings)
  if (!created) return json(200, queueJson(stored))
  return json(201, queueJson(stored), { Location: `/v1/queues/${queue}` })
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/queues',
  operationId: 'listQueues',
  summary: 'Queues that the key may read, by name',
  tags,
  security,
  request: { query: z.strictObject(page) },
  responses: { 200: jsonOf(pageOf(queueOut).openapi('QueueList'), 'A page'), ...problems(401, 403) },
})

const list = endpoint(listRoute, 'key', async ({ broker, principal, query }) => {
  const mayReadAny = principal && (principal.root || principal.scopes.some(({ actions }) => actions.includes('read')))
  if (!mayReadAny) throw new BrokerError('forbidden', 'This API key has no scope to read queues.')
  const { data, nextCursor } = await broker.admin.listQueues({
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
    may: (queue) => allows(principal, 'read', 'queues', queue),
  })
  return json(200, { data: data.map(queueJson), next_cursor: nextCursor })
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/queues/{queue}',
  operationId: 'getQueue',
  summary: 'Settings and counts',
  tags,
  security,
  request: { params: queueParam },
  responses: { 200: jsonOf(queueOut, 'The queue'), ...problems(401, 403, 404) },
})

const get = endpoint(getRoute, 'read', async ({ broker, queue }) =>
  json(200, queueJson(await broker.admin.getQueue(queue))),
)

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/queues/{queue}',
  operationId: 'deleteQueue',
  summary: 'Delete an empty queue, or any with force',
  tags,
  security,
  request: { params: queueParam, query: z.strictObject({ force: flagParam }) },
  responses: { 204: { description: 'Gone; waiting receivers are answered' }, ...problems(401, 403, 404, 409) },
})

const remove = endpoint(deleteRoute, 'manage', async ({ broker, queue, query }) => {
  await broker.admin.deleteQueue(queue, query.force ?? false)
  return empty()
})

const statsOut = z
  .strictObject({
    ready: z.int(),
    delayed: z.int(),
    leased: z.int(),
    dead: z.int(),
    oldest_ready_age_s: z.number(),
    in_rate: z.number().openapi({ description: 'Messages a second over the last minute.' }),
    out_rate: z.number().openapi({ description: 'Messages a second over the last minute.' }),
    drain_s: z
      .number()
      .nullable()
      .openapi({ description: 'ready / (out_rate - in_rate); null when it does not drain.' }),
    service_s: z.number().nullable().openapi({
      description: 'Seconds of one consumer that a message took in the last two minutes; null when none was measured.',
    }),
    desired_consumers: z.int().openapi({
      description:
        'How many consumers take what comes in and work the backlog off within target_age: (in_rate + ready / target_age) * service_s, and never fewer than are busy now.',
    }),
  })
  .openapi('QueueStats')

const statsRoute = createRoute({
  method: 'get',
  path: '/v1/queues/{queue}/stats',
  operationId: 'getQueueStats',
  summary: 'Flat figures for dashboards and autoscalers',
  tags,
  security,
  request: {
    params: queueParam,
    query: z.strictObject({
      target_age: durationParam(forecastLimits.targetAgeMs)
        .optional()
        .openapi({ default: '1m', description: 'How old a ready message may become.' }),
    }),
  },
  responses: { 200: jsonOf(statsOut, 'The figures'), ...problems(401, 403, 404) },
})

const stats = endpoint(statsRoute, 'read', async ({ broker, queue, query }) => {
  const figures = await broker.admin.queueStats(queue, query.target_age)
  return json(200, {
    ready: figures.ready,
    delayed: figures.delayed,
    leased: figures.leased,
    dead: figures.dead,
    oldest_ready_age_s: figures.oldestReadyAgeS,
    in_rate: figures.inRate,
    out_rate: figures.outRate,
    drain_s: figures.drainS,
    service_s: figures.serviceS,
    desired_consumers: figures.desiredConsumers,
  })
})

const pauseRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/pause',
  operationId: 'pauseQueue',
  summary: 'Hand out nothing until resumed; sends are still taken',
  tags,
  security,
  request: { params: queueParam },
  responses: { 200: jsonOf(queueOut, 'The queue'), ...problems(401, 403, 404) },
})

const resumeRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/resume',
  operationId: 'resumeQueue',
  summary: 'Hand out messages again',
  tags,
  security,
  request: { params: queueParam },
  responses: { 200: jsonOf(queueOut, 'The queue'), ...problems(401, 403, 404) },
})

const pause = endpoint(pauseRoute, 'manage', async (call) => json(200, queueJson(await setPaused(call, true))))
const resume = endpoint(resumeRoute, 'manage', async (call) => json(200, queueJson(await setPaused(call, false))))

/** Asks for the queue first, because a put would create it. */
async function setPaused(
  { broker, queue }: Pick<Call<typeof pauseRoute>, 'broker' | 'queue'>,
  paused: boolean,
): Promise<QueueWithCounts> {
  await broker.admin.getQueue(queue)
  return (await broker.admin.putQueue(queue, { paused })).queue
}

const purgeable = messageStates.join('|')
const purgeRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/purge',
  operationId: 'purgeQueue',
  summary: 'Delete all messages in the given states',
  tags,
  security,
  request: {
    params: queueParam,
    query: z.strictObject({
      state: z
        .string()
        .regex(new RegExp(`^(${purgeable})(,(${purgeable}))*$`), `must be one or more of ${messageStates.join(', ')}`)
        .transform((states) => [...new Set(states.split(','))] as MessageState[])
        .optional()
        .openapi({ type: 'string', default: 'ready,delayed,leased', example: 'dead' }),
    }),
  },
  responses: {
    200: jsonOf(z.strictObject({ purged: z.int() }).openapi('Purged'), 'How many were deleted'),
    ...problems(401, 403, 404),
  },
})

const purge = endpoint(purgeRoute, 'manage', async ({ broker, queue, query }) =>
  json(200, { purged: await broker.admin.purgeQueue(queue, query.state ?? ['ready', 'delayed', 'leased']) }),
)

export const queueEndpoints: readonly Endpoint[] = [put, list, get, remove, stats, pause, resume, purge]
