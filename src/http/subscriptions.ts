/** Webhook subscriptions: create, look at, change, delete. What a key may do with one, its queue or topic says. */
import { randomBytes } from 'node:crypto'
import { createRoute, z } from '@hono/zod-openapi'
import type { SubscriptionWithCounts } from '../broker/index.ts'
import {
  type Action,
  BrokerError,
  defaultSubscription,
  type FieldError,
  type Principal,
  type SubscriptionSource,
} from '../model/index.ts'
import { empty, json } from './answer.ts'
import { type Endpoint, endpoint, forbidden, permits, type Site } from './endpoint.ts'
import { name, page, pageOf } from './fields.ts'
import { jsonIn, jsonOf, problems, security } from './route.ts'
import { changesIn, createdOut, subscriptionIn, subscriptionJson, subscriptionOut } from './subscription_settings.ts'

const tags = ['subscriptions']

export const subscriptionParam = z.object({ id: z.string().openapi({ example: 'sub_0b1c2d3e4f5a6b7c8d9e' }) })
const idPattern = /^sub_[0-9a-z]{1,60}$/

/** A secret as Standard Webhooks has them: 24 random bytes, the size that it recommends. */
export const newSecret = (): string => `whsec_${randomBytes(24).toString('base64')}`

type Caller = Pick<Site, 'broker'> & { principal: Principal | null; param(name: string): string }

/** The one in the path. Throws subscription_not_found also when the key may not even look at it: no id can be probed. */
export async function subscriptionFor(
  { broker, principal, param }: Caller,
  action: Action,
): Promise<SubscriptionWithCounts> {
  const id = param('id')
  const unknown = () => new BrokerError('subscription_not_found', `There is no subscription ${id}.`)
  if (!idPattern.test(id)) throw unknown()
  const subscription = await broker.admin.getSubscription(id)
  const { source } = subscription
  if (may(principal, action, source)) return subscription
  if (!may(principal, 'read', source) && !may(principal, 'manage', source)) throw unknown()
  throw refused(action, source)
}

const may = (principal: Principal | null, action: Action, source: SubscriptionSource): boolean =>
  'queue' in source
    ? permits(principal, action, 'queues', source.queue)
    : permits(principal, action, 'topics', source.topic)

const refused = (action: Action, source: SubscriptionSource): BrokerError =>
  'queue' in source ? forbidden(action, source.queue) : forbidden(action, source.topic, 'topic')

const createRouteOfSubscriptions = createRoute({
  method: 'post',
  path: '/v1/subscriptions',
  operationId: 'createSubscription',
  summary: 'Deliver the messages of a queue or a topic to a URL',
  description:
    'On a topic a subscription has a backlog of its own; several on one queue compete for its messages. The key must be allowed to manage the queue or topic.',
  tags,
  security,
  request: { body: jsonIn(subscriptionIn) },
  responses: {
    201: { ...jsonOf(createdOut, 'Created'), headers: z.object({ Location: z.string() }) },
    ...problems(401, 403, 413, 415),
  },
})

const create = endpoint(createRouteOfSubscriptions, 'key', async ({ broker, principal, json: readBody }) => {
  const { source, settings } = await readBody()
  if (!may(principal, 'manage', source)) throw refused('manage', source)
  const secret = newSecret()
  const created = await broker.admin.createSubscription(source, { ...defaultSubscription, ...settings }, secret)
  return json(201, { ...subscriptionJson(created, true), secret }, { Location: `/v1/subscriptions/${created.id}` })
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/subscriptions',
  operationId: 'listSubscriptions',
  summary: 'Subscriptions on queues and topics that the key may read, in the order of creation',
  tags,
  security,
  request: { query: z.strictObject({ queue: name.optional(), topic: name.optional(), ...page }) },
  responses: { 200: jsonOf(pageOf(subscriptionOut).openapi('SubscriptionList'), 'A page'), ...problems(401, 403) },
})

const list = endpoint(listRoute, 'key', async ({ broker, principal, query }) => {
  const mayReadAny = principal?.root || principal?.scopes.some(({ actions }) => actions.includes('read'))
  if (!mayReadAny) throw new BrokerError('forbidden', 'This API key has no scope to read queues or topics.')
  const { data, nextCursor } = await broker.admin.listSubscriptions({
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
    queue: query.queue ?? null,
    topic: query.topic ?? null,
    may: ({ source }) => may(principal, 'read', source),
  })
  return json(200, {
    data: data.map((each) => subscriptionJson(each, may(principal, 'manage', each.source))),
    next_cursor: nextCursor,
  })
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/subscriptions/{id}',
  operationId: 'getSubscription',
  summary: 'Settings, how the endpoint has been doing, and counts',
  tags,
  security,
  request: { params: subscriptionParam },
  responses: { 200: jsonOf(subscriptionOut, 'The subscription'), ...problems(401, 403, 404) },
})

const get = endpoint(getRoute, 'key', async (call) => {
  const found = await subscriptionFor(call, 'read')
  return json(200, subscriptionJson(found, may(call.principal, 'manage', found.source)))
})

const patchRoute = createRoute({
  method: 'patch',
  path: '/v1/subscriptions/{id}',
  operationId: 'updateSubscription',
  summary: 'Change the settings given; all but its queue or topic',
  tags,
  security,
  request: { params: subscriptionParam, body: jsonIn(changesIn) },
  responses: { 200: jsonOf(subscriptionOut, 'Changed'), ...problems(401, 403, 404, 409, 413, 415) },
})

const patch = endpoint(patchRoute, 'key', async (call) => {
  const { id, source } = await subscriptionFor(call, 'manage')
  const { queue, topic, changes } = await call.json()
  checkSource(source, queue, topic)
  return json(200, subscriptionJson(await call.broker.admin.updateSubscription(id, changes), true))
})

/** Throws setting_is_fixed for another queue or topic than it has. */
function checkSource(source: SubscriptionSource, queue: string | undefined, topic: string | undefined): void {
  const detail = 'is fixed at creation: delete the subscription and create another'
  const errors: FieldError[] = []
  if (queue !== undefined && !('queue' in source && source.queue === queue)) errors.push({ pointer: '/queue', detail })
  if (topic !== undefined && !('topic' in source && source.topic === topic)) errors.push({ pointer: '/topic', detail })
  if (errors.length > 0) throw new BrokerError('setting_is_fixed', `The queue or topic ${detail}.`, { errors })
}

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/subscriptions/{id}',
  operationId: 'deleteSubscription',
  summary: 'Delete a subscription; on a topic its backlog goes with it',
  tags,
  security,
  request: { params: subscriptionParam },
  responses: { 204: { description: 'Gone' }, ...problems(401, 403, 404) },
})

const remove = endpoint(deleteRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'manage')
  await call.broker.admin.deleteSubscription(id)
  return empty()
})

export const subscriptionEndpoints: readonly Endpoint[] = [create, list, get, patch, remove]
