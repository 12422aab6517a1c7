/** Publishing: a copy to all whose pattern and filter match; and asking who that would be. */
import { createRoute, z } from '@hono/zod-openapi'
import { json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { routingKeyParam } from './interest.ts'
import { duplicateOut, messageNotes, messageOptions, messageRequest, readMessage } from './message_request.ts'
import { jsonOf, problems, security, topicParam } from './route.ts'

const tags = ['topics']

const request = {
  params: topicParam,
  query: z.strictObject({ routing_key: routingKeyParam.optional(), ...messageOptions }),
  ...messageRequest,
}

const publishedOut = z
  .strictObject({
    id: z.string(),
    matched: z.int().openapi({ description: 'How many queues and subscriptions got a copy.' }),
  })
  .openapi('Published')

const publishRoute = createRoute({
  method: 'post',
  path: '/v1/topics/{topic}/messages',
  operationId: 'publishMessage',
  summary: 'Publish a message: the request body is the message',
  description: `Answered after all copies are committed, together. ${messageNotes}`,
  tags,
  security,
  request,
  responses: {
    200: jsonOf(duplicateOut, 'A message with this dedup_id was published before'),
    202: jsonOf(publishedOut, 'Published'),
    ...problems(401, 403, 404, 413),
  },
})

const publish = endpoint(publishRoute, 'send', async ({ broker, exchange, topic, query, maxBodyBytes }) => {
  const message = await readMessage(exchange, query, maxBodyBytes)
  const { id, matched, deduplicated } = await broker.publish(topic, query.routing_key ?? '', message)
  if (deduplicated) return json(200, { id, deduplicated })
  return json(202, { id, matched })
})

const matchesOut = z
  .strictObject({
    matched: z.int().openapi({ description: 'How many queues and subscriptions would get a copy.' }),
    bindings: z.array(z.strictObject({ name: z.string(), queue: z.string() })),
    subscriptions: z.array(z.string()).openapi({ description: 'Their ids.' }),
  })
  .openapi('Matches')

const testRoute = createRoute({
  method: 'post',
  path: '/v1/topics/{topic}/test',
  operationId: 'testPublish',
  summary: 'Which bindings and subscriptions a message would match; stores nothing',
  description: 'Takes what a publish takes.',
  tags,
  security,
  request,
  responses: { 200: jsonOf(matchesOut, 'Where it would go'), ...problems(401, 403, 404, 413) },
})

const test = endpoint(testRoute, 'read', async ({ broker, exchange, topic, query, maxBodyBytes }) => {
  const message = await readMessage(exchange, query, maxBodyBytes)
  const { bindings, subscriptions } = await broker.admin.testPublish(topic, query.routing_key ?? '', message)
  const queues = new Set(bindings.map(({ queue }) => queue))
  return json(200, { matched: queues.size + subscriptions.length, bindings, subscriptions })
})

export const publishEndpoints: readonly Endpoint[] = [publish, test]
