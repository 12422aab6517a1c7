/** Ack, nack, extend and reject one lease, by its receipt. */
import { createRoute, z } from '@hono/zod-openapi'
import { BrokerError, invalid, limits, type SettleAction, type Settled } from '../model/index.ts'
import { empty, json } from './answer.ts'
import { type Call, type Endpoint, endpoint } from './endpoint.ts'
import { durationParam, timeOut } from './fields.ts'
import { jsonIn, jsonOf, objectOf, problems, security } from './route.ts'
import { delay, lease, mayReceive, reason } from './settle.ts'

const tags = ['leases']

const receiptParam = z.object({ receipt: z.string().openapi({ description: 'Opaque; names exactly one delivery.' }) })

/** What an ack cannot tell apart, because nothing is left of a message that is done. */
const ackNotes =
  'Acking again is no error. A lease that somebody else has taken over is `lease_lost`, as long as the message is there: once it is done (acked by the other, deleted or purged), nothing is left of it, and a receipt of an earlier lease is answered like a repeated ack. Nothing is changed by that.'

const ackRoute = createRoute({
  method: 'delete',
  path: '/v1/leases/{receipt}',
  operationId: 'ack',
  summary: 'Ack: the message is done',
  description: ackNotes,
  tags,
  security,
  request: { params: receiptParam },
  responses: { 204: { description: 'Acked, now or before' }, ...problems(401, 403, 409) },
})

const ack = endpoint(ackRoute, 'key', async (call) => {
  await settleOne(call, { action: 'ack', receipt: call.param('receipt') })
  return empty()
})

const extendRoute = createRoute({
  method: 'patch',
  path: '/v1/leases/{receipt}',
  operationId: 'extend',
  summary: 'Extend the lease, from now',
  tags,
  security,
  request: {
    params: receiptParam,
    body: jsonIn(objectOf({ lease }, 'must be an object with lease').openapi('Extension')),
  },
  responses: {
    200: jsonOf(z.strictObject({ lease_expires_at: timeOut }).openapi('Extended'), 'Extended'),
    ...problems(401, 403, 409, 413, 415),
  },
})

const extend = endpoint(extendRoute, 'key', async (call) => {
  const { lease: leaseMs } = await call.json()
  const settled = await settleOne(call, { action: 'extend', receipt: call.param('receipt'), leaseMs })
  return json(200, { lease_expires_at: settled.leaseExpiresAt?.toISOString() })
})

const nackRoute = createRoute({
  method: 'post',
  path: '/v1/leases/{receipt}/nack',
  operationId: 'nack',
  summary: 'Nack: hand the message out again, after the delay or the backoff of the queue',
  tags,
  security,
  description: 'The delay is given in the query or in the body.',
  request: {
    params: receiptParam,
    query: z.strictObject({ delay: durationParam(limits.delayMs).optional() }),
    body: jsonIn(objectOf({ delay }, 'must be an object with delay').openapi('Nack')),
  },
  responses: { 204: { description: 'Nacked' }, ...problems(401, 403, 409, 413, 415) },
})

const nack = endpoint(nackRoute, 'key', async (call) => {
  const { delay: inBody } = await call.json()
  const { delay: inQuery } = call.query
  if (inBody != null && inQuery !== undefined) throw invalid('/delay', 'is given in the query too: give one of them')
  await settleOne(call, { action: 'nack', receipt: call.param('receipt'), delayMs: inQuery ?? inBody ?? null })
  return empty()
})

const rejectRoute = createRoute({
  method: 'post',
  path: '/v1/leases/{receipt}/reject',
  operationId: 'reject',
  summary: 'Reject: straight to the dead letters',
  tags,
  security,
  request: {
    params: receiptParam,
    body: jsonIn(objectOf({ reason }, 'must be an object with reason').openapi('Rejection')),
  },
  responses: { 204: { description: 'Rejected' }, ...problems(401, 403, 409, 413, 415) },
})

const reject = endpoint(rejectRoute, 'key', async (call) => {
  const body = await call.json()
  await settleOne(call, { action: 'reject', receipt: call.param('receipt'), reason: body.reason ?? null })
  return empty()
})

async function settleOne(
  { broker, principal }: Pick<Call<typeof ackRoute>, 'broker' | 'principal'>,
  action: SettleAction,
): Promise<Settled> {
  const [settled] = await broker.settle([action], { queue: null, may: (queue) => mayReceive(principal, queue) })
  if (!settled) throw new Error('the broker answered nothing')
  if (settled.outcome === 'lease_lost') {
    throw new BrokerError('lease_lost', 'This lease has ended; the message may have been handed to somebody else.')
  }
  if (settled.outcome === 'invalid_receipt') {
    throw new BrokerError('invalid_receipt', 'This is not a receipt of this deployment.', {
      errors: [{ pointer: 'path/receipt', detail: 'is not a receipt' }],
    })
  }
  return settled
}

export const leaseEndpoints: readonly Endpoint[] = [ack, extend, nack, reject]
