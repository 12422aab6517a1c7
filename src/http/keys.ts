/** API keys; only the root key may manage them. A secret is shown once, in the answer that creates it. */
import { createRoute, z } from '@hono/zod-openapi'
import { wallMs } from '../base/index.ts'
import { type ApiKey, actions, formatRate } from '../model/index.ts'
import { empty, json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { page, pageOf, rateIn, rateOut, shortText, time, timeOut } from './fields.ts'
import { jsonIn, jsonOf, problems, security } from './route.ts'

const tags = ['keys']
const most = 100
const mostRequests = 999_999

const patterns = z
  .array(
    z
      .string('must be a string')
      .regex(/^[A-Za-z0-9._*-]{1,80}$/, 'must be a name in which * stands for any characters'),
    'must be an array of names',
  )
  .max(most, `must be at most ${most}`)
  .optional()

const scopeIn = z
  .strictObject({
    actions: z
      .array(z.enum(actions, `must be one of ${actions.join(', ')}`), 'must be an array of actions')
      .min(1, 'must not be empty')
      .max(actions.length, 'has an action twice'),
    queues: patterns,
    topics: patterns,
  })
  .refine(({ queues, topics }) => (queues ?? topics ?? []).length > 0, 'must name queues or topics')
  .transform((scope) => ({ actions: scope.actions, queues: scope.queues ?? [], topics: scope.topics ?? [] }))

const keyIn = z
  .strictObject({
    name: shortText,
    scopes: z
      .array(scopeIn, 'must be an array of scopes')
      .min(1, 'must not be empty')
      .max(most, `must be at most ${most}`),
    expires_at: time.refine((ms) => ms > wallMs(), 'must be in the future').nullish(),
    rate_limit: rateIn(mostRequests),
  })
  .openapi('NewKey')

const scopeOut = z
  .strictObject({ actions: z.array(z.enum(actions)), queues: z.array(z.string()), topics: z.array(z.string()) })
  .openapi('Scope', { description: 'Names are patterns in which * stands for any run of characters.' })

const keyShape = {
  id: z.string(),
  name: z.string(),
  scopes: z.array(scopeOut),
  created_at: timeOut,
  expires_at: timeOut.nullable(),
  rate_limit: rateOut.openapi({
    description: 'Requests on each gateway; null: as the setting RATE_LIMIT_PER_KEY says.',
    example: '100/s',
  }),
}
const keyOut = z.strictObject(keyShape).openapi('Key')
const createdOut = z
  .strictObject({ ...keyShape, key: z.string().openapi({ description: 'The secret; shown here and never again.' }) })
  .openapi('CreatedKey')

const createRouteOfKeys = createRoute({
  method: 'post',
  path: '/v1/keys',
  operationId: 'createKey',
  summary: 'Create an API key',
  tags,
  security,
  request: { body: jsonIn(keyIn) },
  responses: { 201: jsonOf(createdOut, 'Created'), ...problems(401, 403, 413, 415) },
})

const create = endpoint(createRouteOfKeys, 'root', async ({ broker, json: readBody }) => {
  const { name, scopes, expires_at: expiresAt, rate_limit: rate } = await readBody()
  const { secret, ...key } = await broker.admin.createKey({
    name,
    scopes,
    expiresAt: expiresAt == null ? null : new Date(expiresAt),
    rate: rate ?? null,
  })
  return json(201, { ...keyJson(key), key: secret })
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/keys',
  operationId: 'listKeys',
  summary: 'API keys, without their secrets',
  tags,
  security,
  request: { query: z.strictObject(page) },
  responses: { 200: jsonOf(pageOf(keyOut).openapi('KeyList'), 'A page'), ...problems(401, 403) },
})

const list = endpoint(listRoute, 'root', async ({ broker, query }) => {
  const { data, nextCursor } = await broker.admin.listKeys({ limit: query.limit ?? 100, cursor: query.cursor ?? null })
  return json(200, { data: data.map(keyJson), next_cursor: nextCursor })
})

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/keys/{id}',
  operationId: 'deleteKey',
  summary: 'Revoke an API key; every gateway refuses it within a second',
  tags,
  security,
  request: { params: z.object({ id: z.string() }) },
  responses: { 204: { description: 'Revoked' }, ...problems(401, 403, 404) },
})

const remove = endpoint(deleteRoute, 'root', async ({ broker, param }) => {
  await broker.admin.deleteKey(param('id'))
  return empty()
})

export const keyEndpoints: readonly Endpoint[] = [create, list, remove]

const keyJson = (key: ApiKey): z.input<typeof keyOut> => ({
  id: key.id,
  name: key.name,
  scopes: key.scopes.map(({ actions, queues, topics }) => ({ actions, queues, topics })),
  created_at: key.createdAt.toISOString(),
  expires_at: key.expiresAt?.toISOString() ?? null,
  rate_limit: key.rate && formatRate(key.rate),
})
