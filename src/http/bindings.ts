/** Bindings: which queues get a copy of which of a topic's messages. */
import { createRoute, z } from '@hono/zod-openapi'
import type { Binding } from '../model/index.ts'
import { empty, json } from './answer.ts'
import { checkName, type Endpoint, endpoint, forbidden, permits } from './endpoint.ts'
import { name, page, pageOf, timeOut } from './fields.ts'
import { filterIn, filterOut, patternIn, patternOut } from './interest.ts'
import { jsonIn, jsonOf, objectOf, problems, security, topicParam } from './route.ts'

const tags = ['topics']

const bindingIn = objectOf(
  { queue: name, pattern: patternIn.optional().openapi({ default: '#' }), filter: filterIn.optional() },
  'must be an object with queue, and optionally pattern and filter',
).openapi('NewBinding', { description: 'Replaces the binding whole: what is not given has its default.' })

const bindingOut = z
  .strictObject({
    name: z.string(),
    topic: z.string(),
    queue: z.string(),
    pattern: patternOut,
    filter: filterOut,
    created_at: timeOut,
    updated_at: timeOut,
  })
  .openapi('Binding')

const oneBinding = topicParam.extend({ name })

const putRoute = createRoute({
  method: 'put',
  path: '/v1/topics/{topic}/bindings/{name}',
  operationId: 'putBinding',
  summary: 'Create or replace a binding; it applies to the next publish',
  description: 'The key must also be allowed to manage the queue, or to send to it.',
  tags,
  security,
  request: { params: oneBinding, body: jsonIn(bindingIn) },
  responses: {
    200: jsonOf(bindingOut, 'Replaced'),
    201: { ...jsonOf(bindingOut, 'Created'), headers: z.object({ Location: z.string() }) },
    ...problems(401, 403, 404, 413, 415),
  },
})

const put = endpoint(putRoute, 'manage', async ({ broker, topic, principal, param, json: readBody }) => {
  const binding = checkName('path/name', param('name'))
  const { queue, pattern = '#', filter = null } = await readBody()
  // Otherwise a key could write into a queue that it may not touch, by way of a topic of its own.
  if (!permits(principal, 'manage', 'queues', queue) && !permits(principal, 'send', 'queues', queue))
    throw forbidden('send', queue)
  const { binding: stored, created } = await broker.admin.putBinding(topic, binding, { queue, pattern, filter })
  if (!created) return json(200, bindingJson(stored))
  return json(201, bindingJson(stored), { Location: `/v1/topics/${topic}/bindings/${binding}` })
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/topics/{topic}/bindings',
  operationId: 'listBindings',
  summary: 'The bindings of a topic, by name',
  tags,
  security,
  request: { params: topicParam, query: z.strictObject(page) },
  responses: { 200: jsonOf(pageOf(bindingOut).openapi('BindingList'), 'A page'), ...problems(401, 403, 404) },
})

const list = endpoint(listRoute, 'read', async ({ broker, topic, query }) => {
  const { data, nextCursor } = await broker.admin.listBindings(topic, {
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
  })
  return json(200, { data: data.map(bindingJson), next_cursor: nextCursor })
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/topics/{topic}/bindings/{name}',
  operationId: 'getBinding',
  summary: 'One binding',
  tags,
  security,
  request: { params: oneBinding },
  responses: { 200: jsonOf(bindingOut, 'The binding'), ...problems(401, 403, 404) },
})

const get = endpoint(getRoute, 'read', async ({ broker, topic, param }) =>
  json(200, bindingJson(await broker.admin.getBinding(topic, checkName('path/name', param('name'))))),
)

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/topics/{topic}/bindings/{name}',
  operationId: 'deleteBinding',
  summary: 'Delete a binding; messages that it has copied stay',
  tags,
  security,
  request: { params: oneBinding },
  responses: { 204: { description: 'Gone' }, ...problems(401, 403, 404) },
})

const remove = endpoint(deleteRoute, 'manage', async ({ broker, topic, param }) => {
  await broker.admin.deleteBinding(topic, checkName('path/name', param('name')))
  return empty()
})

export const bindingEndpoints: readonly Endpoint[] = [put, list, get, remove]

const bindingJson = (binding: Binding): z.input<typeof bindingOut> => ({
  name: binding.name,
  topic: binding.topic,
  queue: binding.queue,
  pattern: binding.pattern,
  filter: binding.filter,
  created_at: binding.createdAt.toISOString(),
  updated_at: binding.updatedAt.toISOString(),
})
