/** Webhooks from end to end: a broker, its dispatcher and endpoints of all kinds. */
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Broker, SubscriptionWithCounts } from '../src/broker/index.ts'
import { defaultSubscription, type SubscriptionSettings, type SubscriptionSource } from '../src/model/index.ts'
import { createPush, newSecret, type Push } from '../src/push/index.ts'
import { type Bench, brokersOn, message, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { type Sink, startSink, status } from './support/sink.ts'

let bench: Bench
let broker: Broker
let push: Push
const sinks: Sink[] = []

beforeAll(async () => {
  bench = await brokersOn(1, 8)
  broker = bench.brokers[0] as Broker
  push = createPush({ broker, allowPrivate: true, version: 'test', log: () => {} })
  push.start()
})
afterAll(async () => {
  await push.stop(500)
  await bench.stop()
  await Promise.all(sinks.map((sink) => sink.close()))
})

async function sinkOf(answer?: Sink['answer']): Promise<Sink> {
  const sink = await startSink(answer)
  sinks.push(sink)
  return sink
}

const quick = { kind: 'schedule' as const, scheduleMs: [20, 20] }

let names = 0
async function onQueue(
  sink: Sink,
  more: Partial<SubscriptionSettings> = {},
): Promise<{ queue: string; secret: string; subscription: SubscriptionWithCounts }> {
  const queue = `q${++names}`
  await broker.admin.putQueue(queue, {})
  const subscription = await subscribe({ queue }, sink, more)
  return { queue, ...subscription }
}

async function subscribe(source: SubscriptionSource, sink: Sink, more: Partial<SubscriptionSettings> = {}) {
  const secret = newSecret()
  const settings = { ...defaultSubscription, retry: quick, url: sink.url, ...more }
  return { secret, subscription: await broker.admin.createSubscription(source, settings, secret) }
}

const attemptsOf = async (id: string) =>
  (await broker.admin.listAttempts(id, { limit: 100, cursor: null, outcome: null })).data

describe('a message', () => {
  test('arrives signed, byte for byte, with its headers, and is settled by a 2xx', async () => {
    const sink = await sinkOf(status(204))
    const { queue, secret, subscription } = await onQueue(sink, { headers: { authorization: 'Bearer x' } })
    const body = Buffer.from('{"name":"Zoë\\u0000"}\r\n')
    const headers = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', tenant: 'acme' }
    const [id] = await send(broker, queue, { ...message(''), body, contentType: 'application/x-thing', headers })
    const hit = await eventually(() => sink.hits[0])
    expect(hit.body).toEqual(body)
    expect(hit.headers).toMatchObject({
      ...headers,
      'content-type': 'application/x-thing',
      'webhook-id': id,
      'postern-attempt': '1',
      authorization: 'Bearer x',
    })
    new Webhook(secret).verify(hit.body.toString(), hit.headers)
    await eventually(async () => (await broker.admin.getQueue(queue)).counts.leased === 0)
    expect((await broker.admin.getQueue(queue)).counts).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
    const [attempt] = await eventually(async () => {
      const found = await attemptsOf(subscription.id)
      return found.length > 0 && found
    })
    expect(attempt).toMatchObject({ messageId: id, attempt: 1, outcome: 'succeeded', status: 204, error: null })
  })

  test('of bytes that are no text arrives as it was sent, empty ones too', async () => {
    const sink = await sinkOf()
    const { queue } = await onQueue(sink)
    const body = Buffer.from([0, 255, 10, 13, 65])
    await send(broker, queue, { ...message(''), body }, message(''))
    await eventually(() => sink.hits.length === 2)
    expect(sink.hits.map((hit) => hit.body.length).sort()).toEqual([0, 5])
    expect(sink.hits.find((hit) => hit.body.length > 0)?.body).toEqual(body)
  })

  test('that fails comes again on the schedule with the same id and a new timestamp, then is a dead letter', async () => {
    const sink = await sinkOf(status(500))
    const { queue, subscription } = await onQueue(sink)
    const [id] = await send(broker, queue, 'x')
    const [dead] = await eventually(async () => {
      const { data } = await broker.admin.browseMessages(queue, 'dead', { limit: 10, cursor: null })
      return data.length > 0 && data
    })
    expect(sink.hits.map((hit) => [hit.headers['webhook-id'], hit.headers['postern-attempt']])).toEqual([
      [id, '1'],
      [id, '2'],
      [id, '3'],
    ])
    expect(dead).toMatchObject({
      id,
      attempts: 3,
      dead: { reason: 'max_attempts', lastError: 'The endpoint answered 500.', origin: queue },
    })
    const attempts = await eventually(async () => {
      const found = await attemptsOf(subscription.id)
      return found.length === 3 && found
    })
    expect(attempts.map((each) => each.outcome)).toEqual(['failed', 'failed', 'failed'])
    expect(attempts[0]?.nextAttemptAt).toBeNull()
    expect(attempts[2]?.nextAttemptAt).not.toBeNull()
  })
})

describe('a topic', () => {
  test('gives each subscription a backlog of its own, and one commit stores every copy', async () => {
    await broker.admin.putTopic('orders', {})
    await broker.admin.putQueue('audit', {})
    await broker.admin.putBinding('orders', 'audit', { queue: 'audit', pattern: '#', filter: null })
    const [one, two] = [await sinkOf(), await sinkOf()]
    await subscribe({ topic: 'orders', pattern: 'order.*.eu', filter: null }, one)
    await subscribe({ topic: 'orders', pattern: '#', filter: { body: { total: [{ numeric: ['>', 100] }] } } }, two)
    const published = await broker.publish('orders', 'order.created.eu', message('{"total":150}'))
    expect(published.matched).toBe(3)
    await broker.publish('orders', 'order.created.us', message('{"total":50}'))
    await eventually(() => one.hits.length === 1 && two.hits.length === 1)
    expect(one.bodies()).toEqual(['{"total":150}'])
    expect(one.hits[0]?.headers['webhook-id']).toBe(published.id)
    expect(two.hits[0]?.headers['webhook-id']).toBe(published.id)
    expect((await broker.admin.getQueue('audit')).counts.ready).toBe(2)
  })
})
