/** Settling many leases in one call, which may also fetch the next messages. */
import { createRoute, z } from '@hono/zod-openapi'
import {
  allows,
  BrokerError,
  type Delivery,
  invalid,
  limits,
  type Principal,
  type SettleAction,
  type Settled,
} from '../model/index.ts'
import { json } from './answer.ts'
import { type Call, type Endpoint, endpoint } from './endpoint.ts'
import { duration, isWellFormed, refuse, timeOut } from './fields.ts'
import { deliveryJson, deliveryOut } from './message_out.ts'
import { checkWait, countParam, leaseParam, perKeyParam, retryHeaders, retryKeyOf, take, waitParam } from './receive.ts'
import { jsonIn, jsonOf, objectOf, problems, queueParam, security } from './route.ts'

const mostReceipts = 1000

export const lease = duration(limits.leaseMs)
export const reason = z
  .string('must be a string')
  .max(1000, 'must be at most 1000 characters')
  .refine((text) => isWellFormed(text) && !text.includes('\u0000'), 'must be text without NUL')
  .nullish()
export const delay = duration(limits.delayMs).nullish()
const receipt = z.string('must be a receipt')
const listOf = <T extends z.ZodType>(item: T) => z.array(item, 'must be an array').optional()

const settleIn = objectOf(
  {
    ack: listOf(receipt),
    nack: listOf(objectOf({ receipt, delay }, 'must be an object with receipt, and optionally delay')),
    extend: listOf(objectOf({ receipt, lease }, 'must be an object with receipt and lease')),
    reject: listOf(objectOf({ receipt, reason }, 'must be an object with receipt, and optionally reason')),
  },
  'must be an object with ack, nack, extend or reject',
).openapi('Settlement', { description: `At most ${mostReceipts} receipts in all.` })

const settleOut = z
  .strictObject({
    results: z.array(
      z.strictObject({
        receipt: z.string(),
        outcome: z.enum(['acked', 'nacked', 'extended', 'rejected', 'lease_lost', 'invalid_receipt']).openapi({
          description: 'An ack is also `acked` when nothing is left of the message, whoever was done with it.',
        }),
        lease_expires_at: timeOut.optional().openapi({ description: 'Of an extended lease.' }),
      }),
    ),
    messages: z.array(deliveryOut).openapi({ description: 'Empty unless asked for with receive.' }),
  })
  .openapi('SettleResults')

const settleRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/settle',
  operationId: 'settle',
  summary: 'Settle many leases, and fetch the next messages in the same round trip',
  tags: ['leases'],
  security,
  request: {
    params: queueParam,
    headers: retryHeaders,
    query: z.strictObject({
      receive: countParam.openapi({ description: 'Fetch up to so many messages. Without it, none.' }),
      per_key: perKeyParam,
      wait: waitParam,
      lease: leaseParam,
    }),
    body: jsonIn(settleIn),
  },
  responses: {
    200: jsonOf(settleOut, 'What became of each, in the order ack, nack, extend, reject; and the messages received'),
    ...problems(401, 403, 404, 413, 415),
  },
})

const settle = endpoint(settleRoute, 'receive', async (call) => {
  const { broker, queue, principal } = call
  checkReceive(call)
  const actions = actionsOf(await call.json())
  const settled = await broker.settle(actions, { queue, may: (name) => mayReceive(principal, name) })
  const messages = await takeNext(call, settled.length > 0)
  return json(200, { results: settled.map(settledJson), messages: messages.map(deliveryJson) })
})

export const settleEndpoints: readonly Endpoint[] = [settle]

export const mayReceive = (principal: Principal | null, queue: string): boolean =>
  principal !== null && allows(principal, 'receive', 'queues', queue)

/** Before anything is settled, so that a 422 means that nothing was done. */
function checkReceive({ exchange, principal, query, maxWaitMs }: Call<typeof settleRoute>): void {
  checkWait(query.wait, maxWaitMs)
  retryKeyOf(exchange, principal)
  if (query.receive !== undefined) return
  const lonely = (['wait', 'lease', 'per_key'] as const).filter((name) => query[name] !== undefined)
  if (lonely.length > 0)
    throw refuse(lonely.map((name) => ({ pointer: `query/${name}`, detail: 'has no meaning without receive' })))
}

function actionsOf({ ack, nack, extend, reject }: z.output<typeof settleIn>): SettleAction[] {
  const actions: SettleAction[] = []
  for (const receipt of ack ?? []) actions.push({ action: 'ack', receipt })
  for (const { receipt, delay } of nack ?? []) actions.push({ action: 'nack', receipt, delayMs: delay ?? null })
  for (const { receipt, lease } of extend ?? []) actions.push({ action: 'extend', receipt, leaseMs: lease })
  for (const { receipt, reason } of reject ?? []) actions.push({ action: 'reject', receipt, reason: reason ?? null })
  if (actions.length > mostReceipts) throw invalid('', `must be at most ${mostReceipts} receipts in all`)
  return actions
}

/** What is settled stays settled: a receive that fails after it must not hide the results from the caller. */
async function takeNext(call: Call<typeof settleRoute>, hasResults: boolean): Promise<Delivery[]> {
  const { receive, wait, lease, per_key } = call.query
  if (receive === undefined) return []
  try {
    return await take(call, call.queue, { max: receive, wait, lease, per_key })
  } catch (error) {
    if (hasResults && error instanceof BrokerError) return []
    throw error
  }
}

const settledJson = ({ receipt, outcome, leaseExpiresAt }: Settled): z.input<typeof settleOut>['results'][number] => ({
  receipt,
  outcome,
  ...(leaseExpiresAt ? { lease_expires_at: leaseExpiresAt.toISOString() } : {}),
})
