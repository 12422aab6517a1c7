/** What is done with a subscription: switched on and off, tried, given another secret, delivered once more, looked into. */
import { isUtf8 } from 'node:buffer'
import { createRoute, z } from '@hono/zod-openapi'
import { type Attempt, type SigningSecret, subscriptionLimits } from '../model/index.ts'
import { json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { duration, page, pageOf, time, timeOut } from './fields.ts'
import { jsonIn, jsonOf, objectOf, problems, security } from './route.ts'
import { subscriptionJson, subscriptionOut, withoutCredentials } from './subscription_settings.ts'
import { newSecret, subscriptionFor, subscriptionParam } from './subscriptions.ts'

const tags = ['subscriptions']
const standardGraceMs = 86_400_000
/** Headers that hold secrets of the endpoint. */

const enableRoute = createRoute({
  method: 'post',
  path: '/v1/subscriptions/{id}/enable',
  operationId: 'enableSubscription',
  summary: 'Deliver again, and forget past failures',
  tags,
  security,
  request: { params: subscriptionParam },
  responses: { 200: jsonOf(subscriptionOut, 'The subscription'), ...problems(401, 403, 404) },
})

const enable = endpoint(enableRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'manage')
  return json(200, subscriptionJson(await call.broker.admin.enableSubscription(id), true))
})

const disableRoute = createRoute({
  method: 'post',
  path: '/v1/subscriptions/{id}/disable',
  operationId: 'disableSubscription',
  summary: 'Deliver nothing until enabled; what is to be delivered is kept',
  tags,
  security,
  request: { params: subscriptionParam },
  responses: { 200: jsonOf(subscriptionOut, 'The subscription'), ...problems(401, 403, 404) },
})

const disable = endpoint(disableRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'manage')
  return json(200, subscriptionJson(await call.broker.admin.disableSubscription(id), true))
})

const attemptOut = z
  .strictObject({
    id: z.string(),
    message_id: z.string(),
    attempt: z
      .int()
      .openapi({ description: 'Which delivery of the message, from 1: the `postern-attempt` that the endpoint got.' }),
    at: timeOut,
    outcome: z.enum(['succeeded', 'failed']),
    status: z.int().nullable().openapi({ description: 'The HTTP status; null when no answer came.' }),
    duration_ms: z.number(),
    request_headers: z.record(z.string(), z.string()),
    response_headers: z.record(z.string(), z.string()),
    response_body: z.string().optional().openapi({ description: 'The first 16 KiB, when they are valid UTF-8.' }),
    response_body_base64: z
      .string()
      .optional()
      .openapi({ description: 'Instead of response_body, when they are not.' }),
    error: z.string().nullable(),
    next_attempt_at: timeOut.nullable(),
  })
  .openapi('Attempt')

const testRoute = createRoute({
  method: 'post',
  path: '/v1/subscriptions/{id}/test',
  operationId: 'testSubscription',
  summary: 'Send one made-up message now, whatever the state of the subscription',
  tags,
  security,
  request: { params: subscriptionParam },
  responses: { 200: jsonOf(attemptOut, 'What came of it'), ...problems(401, 403, 404) },
})

const test = endpoint(testRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'manage')
  return json(200, attemptJson(await call.testWebhook(id)))
})

const rotateRoute = createRoute({
  method: 'post',
  path: '/v1/subscriptions/{id}/rotate_secret',
  operationId: 'rotateSecret',
  summary: 'Sign with a new secret; those before it sign beside it until the grace is over',
  description:
    'At most five secrets sign at once, the new one among them: a rotation that would make them more ends the oldest at once, whatever its grace.',
  tags,
  security,
  request: {
    params: subscriptionParam,
    body: jsonIn(
      objectOf(
        {
          grace: duration(subscriptionLimits.graceMs)
            .optional()
            .openapi({ description: 'How long the present secret goes on signing, 0s to 30d. 24h by default.' }),
        },
        'must be an object with grace',
      ).openapi('Rotation'),
    ),
  },
  responses: {
    200: jsonOf(
      z
        .strictObject({
          secret: z.string(),
          previous: z.array(z.strictObject({ created_at: timeOut, expires_at: timeOut })),
        })
        .openapi('RotatedSecret'),
      'The new secret',
    ),
    ...problems(401, 403, 404, 413, 415),
  },
})

const rotate = endpoint(rotateRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'manage')
  const { grace = standardGraceMs } = await call.json()
  const secret = newSecret()
  const live = await call.broker.admin.rotateSecret(id, secret, grace)
  const previous = endingOf(live).map(({ createdAt, expiresAt }) => ({ created_at: createdAt, expires_at: expiresAt }))
  return json(200, { secret, previous })
})

const secretRoute = createRoute({
  method: 'get',
  path: '/v1/subscriptions/{id}/secret',
  operationId: 'getSecret',
  summary: 'The secrets that sign; the key must be allowed to manage',
  tags,
  security,
  request: { params: subscriptionParam },
  responses: {
    200: jsonOf(
      z
        .strictObject({
          secret: z.string(),
          previous: z.array(z.strictObject({ secret: z.string(), expires_at: timeOut })),
        })
        .openapi('Secrets'),
      'The present secret, and those whose grace is not over',
    ),
    ...problems(401, 403, 404),
  },
})

const secret = endpoint(secretRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'manage')
  const live = await call.broker.admin.secretsOf(id)
  const present = live.find(({ expiresAt }) => expiresAt === null)
  if (!present) throw new Error(`the subscription ${id} has no secret`)
  const previous = endingOf(live).map(({ secret, expiresAt }) => ({ secret, expires_at: expiresAt }))
  return json(200, { secret: present.secret, previous })
})

/** Those that were replaced. */
const endingOf = (live: readonly SigningSecret[]) =>
  live.flatMap(({ secret, createdAt, expiresAt }) =>
    expiresAt ? [{ secret, createdAt: createdAt.toISOString(), expiresAt: expiresAt.toISOString() }] : [],
  )

const replayIn = objectOf(
  {
    state: z.enum(['dead', 'past'], 'must be dead or past').optional().openapi({
      description:
        'dead: its dead letters. past: what its topic has kept, whatever became of it. Unless given: past with from, else dead.',
    }),
    from: time.optional(),
    to: time.optional(),
  },
  'must be an object with state, from, to',
)
  .transform(({ state, from, to }, context) => {
    if (from !== undefined && to !== undefined && from > to)
      context.addIssue({ code: 'custom', path: ['to'], message: 'must not be before from' })
    return {
      state: state ?? (from === undefined ? ('dead' as const) : ('past' as const)),
      from: from === undefined ? null : new Date(from),
      to: to === undefined ? null : new Date(to),
    }
  })
  .openapi('Replay')

const replayRoute = createRoute({
  method: 'post',
  path: '/v1/subscriptions/{id}/replay',
  operationId: 'replaySubscription',
  summary: 'Deliver dead letters or past messages once more',
  tags,
  security,
  request: { params: subscriptionParam, body: jsonIn(replayIn) },
  responses: {
    202: jsonOf(z.strictObject({ replayed: z.int() }).openapi('Replayed'), 'So many are ready again'),
    ...problems(401, 403, 404, 413, 415),
  },
})

const replay = endpoint(replayRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'manage')
  return json(202, { replayed: await call.broker.admin.replay(id, await call.json()) })
})

const attemptsRoute = createRoute({
  method: 'get',
  path: '/v1/subscriptions/{id}/attempts',
  operationId: 'listAttempts',
  summary: 'The calls to the endpoint, the newest first',
  tags,
  security,
  request: {
    params: subscriptionParam,
    query: z.strictObject({
      status: z.enum(['failed', 'succeeded'], 'must be failed or succeeded').optional(),
      ...page,
    }),
  },
  responses: { 200: jsonOf(pageOf(attemptOut).openapi('AttemptList'), 'A page'), ...problems(401, 403, 404) },
})

const attempts = endpoint(attemptsRoute, 'key', async (call) => {
  const { id } = await subscriptionFor(call, 'read')
  const { status, limit, cursor } = call.query
  const { data, nextCursor } = await call.broker.admin.listAttempts(id, {
    limit: limit ?? 100,
    cursor: cursor ?? null,
    outcome: status ?? null,
  })
  return json(200, { data: data.map(attemptJson), next_cursor: nextCursor })
})

export const subscriptionActionEndpoints: readonly Endpoint[] = [
  enable,
  disable,
  test,
  rotate,
  secret,
  replay,
  attempts,
]

const attemptJson = (attempt: Attempt): z.input<typeof attemptOut> => ({
  id: attempt.id,
  message_id: attempt.messageId,
  attempt: attempt.attempt,
  at: attempt.at.toISOString(),
  outcome: attempt.outcome,
  status: attempt.status,
  duration_ms: attempt.durationMs,
  request_headers: withoutCredentials(attempt.requestHeaders),
  response_headers: attempt.responseHeaders,
  ...responseJson(attempt.responseBody),
  error: attempt.error,
  next_attempt_at: attempt.nextAttemptAt?.toISOString() ?? null,
})

/** Text that was cut within its last character is text without it. */
function responseJson(body: Buffer): { response_body: string } | { response_body_base64: string } {
  const most = body.length < subscriptionLimits.responseBytes ? 0 : 3
  for (let cut = 0; cut <= most; cut++) {
    const kept = body.subarray(0, body.length - cut)
    if (isUtf8(kept)) return { response_body: kept.toString('utf8') }
  }
  return { response_body_base64: body.toString('base64') }
}
