/** Topics: create or change, look at, delete. */
import { createRoute, z } from '@hono/zod-openapi'
import type { TopicWithCounts } from '../broker/index.ts'
import { BrokerError, formatDuration, type TopicSettings, topicLimits } from '../model/index.ts'
import { empty, json } from './answer.ts'
import { type Endpoint, endpoint, permits } from './endpoint.ts'
import { duration, durationOut, flagParam, page, pageOf, timeOut } from './fields.ts'
import { jsonIn, jsonOf, objectOf, problems, security, topicParam } from './route.ts'

const tags = ['topics']

/** Only what was given; the broker keeps the rest. */
const topicIn = objectOf(
  {
    retention: duration(topicLimits.retentionMs)
      .optional()
      .openapi({ description: 'How long published messages are kept for a replay, 0s to 365d. 1h by default.' }),
    dedup_window: duration(topicLimits.dedupWindowMs).optional().openapi({
      description: 'How long a repeated dedup_id is taken for the same message, 0s to 30d. 5m by default.',
    }),
  },
  'must be an object of settings',
)
  .transform(
    ({ retention, dedup_window: dedupWindow }): Partial<TopicSettings> => ({
      ...(retention === undefined ? {} : { retentionMs: retention }),
      ...(dedupWindow === undefined ? {} : { dedupWindowMs: dedupWindow }),
    }),
  )
  .openapi('TopicSettings', { description: 'All optional. What is not given keeps its value.' })

const topicOut = z
  .strictObject({
    name: z.string(),
    retention: durationOut,
    dedup_window: durationOut,
    counts: z.strictObject({ bindings: z.int(), subscriptions: z.int() }),
    created_at: timeOut,
    updated_at: timeOut,
  })
  .openapi('Topic')

const putRoute = createRoute({
  method: 'put',
  path: '/v1/topics/{topic}',
  operationId: 'putTopic',
  summary: 'Create a topic, or change the settings given',
  tags,
  security,
  request: { params: topicParam, body: jsonIn(topicIn) },
  responses: {
    200: jsonOf(topicOut, 'The topic was there; the settings given are changed'),
    201: { ...jsonOf(topicOut, 'Created'), headers: z.object({ Location: z.string() }) },
    ...problems(401, 403, 413, 415),
  },
})

const put = endpoint(putRoute, 'manage', async ({ broker, topic, json: readBody }) => {
  const { topic: stored, created } = await broker.admin.putTopic(topic, await readBody())
  if (!created) return json(200, topicJson(stored))
  return json(201, topicJson(stored), { Location: `/v1/topics/${topic}` })
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/topics',
  operationId: 'listTopics',
  summary: 'Topics that the key may read, by name',
  tags,
  security,
  request: { query: z.strictObject(page) },
  responses: { 200: jsonOf(pageOf(topicOut).openapi('TopicList'), 'A page'), ...problems(401, 403) },
})

const list = endpoint(listRoute, 'key', async ({ broker, principal, query }) => {
  const mayReadAny =
    principal?.root || principal?.scopes.some(({ actions, topics }) => actions.includes('read') && topics.length > 0)
  if (!mayReadAny) throw new BrokerError('forbidden', 'This API key has no scope to read topics.')
  const { data, nextCursor } = await broker.admin.listTopics({
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
    may: (topic) => permits(principal, 'read', 'topics', topic),
  })
  return json(200, { data: data.map(topicJson), next_cursor: nextCursor })
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/topics/{topic}',
  operationId: 'getTopic',
  summary: 'Settings and counts',
  tags,
  security,
  request: { params: topicParam },
  responses: { 200: jsonOf(topicOut, 'The topic'), ...problems(401, 403, 404) },
})

const get = endpoint(getRoute, 'read', async ({ broker, topic }) =>
  json(200, topicJson(await broker.admin.getTopic(topic))),
)

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/topics/{topic}',
  operationId: 'deleteTopic',
  summary:
    'Delete a topic with its bindings and subscriptions; with force also when these have messages left to deliver',
  tags,
  security,
  request: { params: topicParam, query: z.strictObject({ force: flagParam }) },
  responses: { 204: { description: 'Gone' }, ...problems(401, 403, 404, 409) },
})

const remove = endpoint(deleteRoute, 'manage', async ({ broker, topic, query }) => {
  await broker.admin.deleteTopic(topic, query.force ?? false)
  return empty()
})

export const topicEndpoints: readonly Endpoint[] = [put, list, get, remove]

const topicJson = (topic: TopicWithCounts): z.input<typeof topicOut> => ({
  name: topic.name,
  retention: formatDuration(topic.retentionMs),
  dedup_window: formatDuration(topic.dedupWindowMs),
  counts: { bindings: topic.counts.bindings, subscriptions: topic.counts.subscriptions },
  created_at: topic.createdAt.toISOString(),
  updated_at: topic.updatedAt.toISOString(),
})
