/** Receiving: one message or many, at once or by a long poll, and nothing left leased to a client that has gone. */
import { createRoute, z } from '@hono/zod-openapi'
import { eventsRead, monotonicMs } from '../base/index.ts'
import type { Received } from '../broker/index.ts'
import {
  type Delivery,
  formatDuration,
  invalid,
  limits,
  type Principal,
  parseTraceparent,
  type Tracing,
} from '../model/index.ts'
import { type Answer, empty, json } from './answer.ts'
import { ifLost } from './arrival.ts'
import { type Endpoint, endpoint, type Site } from './endpoint.ts'
import { checkAnswers, countAnswer, type Exchange, hangUp, hasGone, ignoreBody } from './exchange.ts'
import { durationParam, flagParam, integerParam, shortText } from './fields.ts'
import { headerBytes, headersToSend, idempotencyKey } from './message_headers.ts'
import { deliveryJson, deliveryOut } from './message_out.ts'
import { problems, queueParam, security } from './route.ts'

const DAY_MS = 86_400_000
/** As long as that an answer about a key is good. */
const stillValidMs = 800

/** The bound on `wait` is a setting, checked in `take`. */
export const waitParam = durationParam({ min: 0, max: DAY_MS })
  .optional()
  .openapi({ default: '0s', description: 'How long to wait for the first message; at most 55s.' })
export const leaseParam = durationParam(limits.leaseMs)
  .optional()
  .openapi({ description: "1s to 12h; without it, the queue's." })
export const retryHeaders = z.object({
  'Idempotency-Key': shortText.optional().openapi({
    description:
      'New for every receive and the same for its retries, which get what is still leased by the first, with the same receipts, until those leases end.',
  }),
})
export const perKeyParam = integerParam({ min: 1, max: 1000 })
  .optional()
  .openapi({ description: 'At most so many messages of one key. On a keyed queue they are consecutive.' })
export const countParam = integerParam({ min: 1, max: 1000 }, 1).optional()

const receiveRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/receive',
  operationId: 'receiveMessages',
  summary: 'Lease messages, waiting for the first one if asked to',
  tags: ['leases'],
  security,
  request: {
    params: queueParam,
    headers: retryHeaders,
    query: z.strictObject({
      max: countParam,
      per_key: perKeyParam,
      wait: waitParam,
      lease: leaseParam,
      raw: flagParam.openapi({ description: 'One message as it is: its body, its Content-Type, the rest in headers.' }),
    }),
  },
  responses: {
    200: {
      description: 'The messages; with raw the body of the one',
      headers: z.object({
        'Postern-Message-Id': z.string().optional(),
        'Postern-Receipt': z.string().optional(),
        'Postern-Attempt': z.string().optional(),
      }),
      content: {
        'application/json': {
          schema: z.strictObject({ messages: z.array(deliveryOut) }).openapi('Deliveries'),
        },
        '*/*': { schema: { type: 'string', format: 'binary' } },
      },
    },
    204: { description: 'Nothing there (raw)' },
    ...problems(401, 403, 404),
  },
})

const receive = endpoint(receiveRoute, 'receive', async (call) => {
  const { query, queue } = call
  if (query.raw && (query.max ?? 1) > 1) throw invalid('query/max', 'must be 1 with raw')
  const messages = await take(call, queue, query)
  if (!query.raw) return json(200, { messages: messages.map(deliveryJson) })
  const [only] = messages
  return only ? rawAnswer(only) : empty()
})

export const receiveEndpoints: readonly Endpoint[] = [receive]

type Taking = Pick<Site, 'broker' | 'maxWaitMs' | 'tracing' | 'checkKey'> & {
  exchange: Exchange
  principal: Principal | null
}
type Wanted = {
  max?: number | undefined
  wait?: number | undefined
  lease?: number | undefined
  per_key?: number | undefined
}

/**
 * Leases for this request; gives back what can no longer be answered. Throws invalid_value for a wait that is too long, and unauthenticated
 * when the caller's key has ended while it waited.
 */
export async function take(
  { broker, exchange, principal, maxWaitMs, tracing, checkKey }: Taking,
  queue: string,
  { max, wait, lease, per_key: perKey }: Wanted,
): Promise<Delivery[]> {
  checkWait(wait, maxWaitMs)
  ignoreBody(exchange)
  checkAnswers(exchange)
  const received = await broker.receive(queue, {
    max: max ?? 1,
    waitMs: wait ?? 0,
    leaseMs: lease ?? null,
    signal: hangUp(exchange),
    retryKey: retryKeyOf(exchange, principal),
    ...(perKey === undefined ? {} : { perKey }),
    ...(principal ? { by: principal.id } : {}),
  })
  try {
    if (monotonicMs() - exchange.startedMs > stillValidMs) await checkKey(exchange)
    if (received.messages.length > 0) await eventsRead()
    countAnswer(exchange, bodyBytes(received.messages))
  } catch (error) {
    await received.giveBack()
    throw error
  }
  if (received.messages.length > 0) guard(exchange, received)
  if (tracing) trace(tracing, exchange, queue, received.messages)
  return received.messages
}

export const bodyBytes = (messages: readonly { body: Buffer }[]): number =>
  messages.reduce((sum, { body }) => sum + body.length, 0)
/** Says in the trace of each message that it was handed out here. */
function trace(tracing: Tracing, { span }: Exchange, queue: string, messages: readonly Delivery[]): void {
  for (const { id, headers, attempt } of messages) {
    if (!parseTraceparent(headers.traceparent)?.sampled) continue
    const facts = {
      'messaging.system': 'postern',
      'messaging.operation.type': 'receive',
      'messaging.destination.name': queue,
      'messaging.message.id': id,
      'postern.attempt': attempt,
    }
    const links = span ? [span.context] : []
    tracing.begin(`receive ${queue}`, { kind: 'consumer', parent: headers, links, facts }).end()
  }
}

/** Two callers may use the same key. */
export function retryKeyOf(exchange: Exchange, principal: Principal | null): string | null {
  const key = idempotencyKey(exchange)
  return key === null ? null : `${principal?.id} ${key}`
}

export function checkWait(wait: number | undefined, maxWaitMs: number): void {
  if (wait !== undefined && wait > maxWaitMs)
    throw invalid('query/wait', `must be at most ${formatDuration(maxWaitMs)}`)
}

function guard(exchange: Exchange, received: Received): void {
  // Its own failure must not become this request's; the leases then end by themselves.
  const giveBack = () => void received.giveBack().catch(() => {})
  if (hasGone(exchange)) giveBack()
  else ifLost(exchange, giveBack)
}

function rawAnswer(delivery: Delivery): Answer<200> {
  return {
    status: 200,
    body: delivery.body,
    headers: {
      ...headersToSend(delivery.headers),
      'Content-Type': headerBytes(delivery.contentType),
      'Postern-Message-Id': delivery.id,
      'Postern-Receipt': delivery.receipt,
      'Postern-Attempt': String(delivery.attempt),
    },
  }
}
