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
  await broker.admin.putQueue(queue, { maxAttempts: 1000 })
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

describe('an endpoint', () => {
  test('that answers 410 is disabled with its backlog kept, and what it refused is a dead letter', async () => {
    const sink = await sinkOf(status(410))
    const { queue, subscription } = await onQueue(sink, { concurrency: 1 })
    await send(broker, queue, 'a', 'b', 'c')
    const found = await eventually(async () => {
      const now = await broker.admin.getSubscription(subscription.id)
      return now.disabled && now.counts.leased === 0 && now.counts.dead > 0 && now
    })
    expect(found.disabled).toBe('gone')
    expect(sink.hits).toHaveLength(1)
    expect(found.counts).toMatchObject({ ready: 2, dead: 1 })
    const { data } = await broker.admin.browseMessages(queue, 'dead', { limit: 10, cursor: null })
    expect(data).toMatchObject([{ dead: { reason: 'gone' } }])
    sink.answer = status(200)
    await broker.admin.enableSubscription(subscription.id)
    await eventually(() => sink.hits.length === 3)
    expect(sink.bodies().slice(1).sort()).not.toContain(sink.bodies()[0])
  })

  test('that asks for a pause with Retry-After gets it, for all messages', async () => {
    const sink = await sinkOf()
    sink.answer = status(429, { 'retry-after': '2' })
    const { queue, subscription } = await onQueue(sink, { concurrency: 1 })
    await send(broker, queue, 'a', 'b', 'c', 'd')
    const held = await eventually(async () => {
      const { health } = await broker.admin.getSubscription(subscription.id)
      return health.heldUntil && health.failures === 1 && health
    })
    expect(held.circuit).toBe('closed')
    expect(sink.hits).toHaveLength(1)
    sink.answer = status(200)
    await eventually(() => sink.hits.length === 5)
    expect((sink.hits[1]?.atMs ?? 0) - (sink.hits[0]?.atMs ?? 0)).toBeGreaterThan(1900)
    // The others had no attempt meanwhile.
    expect(sink.hits.slice(1).map((hit) => hit.headers['postern-attempt'])).toEqual(
      expect.arrayContaining(['1', '1', '1', '2']),
    )
  })

  test('that fails again and again opens its circuit, is tried with one message, and closes it with a success', async () => {
    const sink = await sinkOf(status(500))
    const { queue, subscription } = await onQueue(sink, { concurrency: 5, maxAttempts: 100 })
    await send(broker, queue, ...Array.from({ length: 30 }, (_, n) => `${n}`))
    await eventually(async () => (await broker.admin.getSubscription(subscription.id)).health.circuit === 'open')
    const before = sink.hits.length
    // Those that were under way when it opened may still have come.
    expect(before).toBeLessThan(20)
    sink.most = 0
    await eventually(() => sink.hits.length > before)
    sink.answer = status(200)
    await eventually(async () => {
      const { counts } = await broker.admin.getSubscription(subscription.id)
      return counts.ready + counts.leased + counts.delayed === 0
    }, 20_000)
    expect((await broker.admin.getSubscription(subscription.id)).health).toMatchObject({
      circuit: 'closed',
      failures: 0,
      failingSince: null,
    })
  }, 40_000)

  test('that has failed for five days is disabled, and enabling it forgets that', async () => {
    const sink = await sinkOf(status(500))
    const { queue, subscription } = await onQueue(sink, {
      retry: { kind: 'schedule', scheduleMs: [50] },
      maxAttempts: 50,
    })
    await send(broker, queue, 'a')
    await eventually(async () => (await broker.admin.getSubscription(subscription.id)).health.failingSince)
    await bench.db
      .sql`update postern.subscriptions set failing_since = now() - interval '5 days 1 second' where name = ${subscription.id}`
    const found = await eventually(async () => {
      const now = await broker.admin.getSubscription(subscription.id)
      return now.disabled && now
    }, 20_000)
    expect(found.disabled).toBe('failing')
    sink.answer = status(200)
    const enabled = await broker.admin.enableSubscription(subscription.id)
    expect(enabled).toMatchObject({ disabled: null, health: { failures: 0, failingSince: null } })
    const before = sink.hits.length
    await eventually(() => sink.hits.length > before)
  }, 40_000)

  test('on a private address is not dialled when only public ones are allowed', async () => {
    const sink = await sinkOf()
    const strict = createPush({ broker, allowPrivate: false, version: 'test', log: () => {} })
    const { subscription } = await onQueue(sink)
    const attempt = await strict.test(subscription.id)
    expect(attempt).toMatchObject({ outcome: 'failed', status: null, error: expect.stringContaining('public') })
    expect(sink.hits).toHaveLength(0)
    await strict.stop(0)
    expect(await push.test(subscription.id)).toMatchObject({ outcome: 'succeeded', status: 200 })
    expect(JSON.parse(sink.bodies()[0] ?? '')).toMatchObject({ type: 'postern.test' })
  })

  test('finds the entry of a test in the log under what it was told', async () => {
    const sink = await sinkOf()
    const { subscription } = await onQueue(sink)
    const tested = await push.test(subscription.id)
    const told = sink.hits[0]?.headers ?? {}
    expect(tested).toMatchObject({ messageId: told['webhook-id'], attempt: Number(told['postern-attempt']) })
    expect(told['webhook-id']).toMatch(/^msg_test_/)
    const { id, messageId, attempt } = tested
    expect(await attemptsOf(subscription.id)).toMatchObject([{ id, messageId, attempt }])
    // It is no message.
    await expect(broker.admin.getMessage(subscription.queue, messageId)).rejects.toMatchObject({
      code: 'message_not_found',
    })
  })
})

describe('a rate', () => {
  test('holds several deliveries under way when the endpoint is slow', async () => {
    const sink = await sinkOf((_hit, response) => void setTimeout(() => response.end(), 700))
    const { queue } = await onQueue(sink, { rate: { count: 20, perMs: 1000 } })
    await send(broker, queue, ...Array.from({ length: 12 }, (_, n) => `${n}`))
    await eventually(() => sink.hits.length === 12)
    expect(sink.most).toBeGreaterThan(5)
  })
})

describe('how an endpoint has been doing', () => {
  const health = async (id: string) => (await broker.admin.getSubscription(id)).health

  test('is told with a few statements, however it flaps, and the last word is true', async () => {
    let n = 0
    const sink = await sinkOf((_hit, response) => void response.writeHead(n++ % 2 ? 200 : 500).end())
    const { queue, subscription } = await onQueue(sink, {
      retry: { kind: 'schedule', scheduleMs: [1] },
      maxAttempts: 100,
      concurrency: 1,
    })
    let reports = 0
    const { desk } = broker
    const record = desk.recordHealth
    desk.recordHealth = (...words) => {
      reports++
      return record(...words)
    }
    await send(broker, queue, ...Array.from({ length: 60 }, (_, at) => `${at}`))
    await eventually(async () => {
      const { counts } = await broker.admin.getSubscription(subscription.id)
      return counts.ready + counts.delayed + counts.leased === 0
    })
    desk.recordHealth = record
    expect(sink.hits.length).toBeGreaterThanOrEqual(60)
    expect(reports).toBeLessThan(20)
    await eventually(async () => (await health(subscription.id)).failingSince === null)
  })

  test('a hold survives a change of gateway; enabling lifts it', async () => {
    const sink = await sinkOf(status(503, { 'retry-after': '3600' }))
    const { queue, subscription } = await onQueue(sink, { concurrency: 1 })
    await send(broker, queue, 'a', 'b')
    await eventually(async () => (await health(subscription.id)).heldUntil)
    // As if another gateway had delivered until now: disowned, and taken anew.
    await bench.db.sql`update postern.subscriptions set owner = null where name = ${subscription.id}`
    await eventually(
      async () =>
        (await bench.db.sql`select 1 from postern.subscriptions where name = ${subscription.id} and owner is not null`)
          .length === 1,
    )
    await send(broker, queue, 'c')
    expect(sink.hits).toHaveLength(1)
    sink.answer = status(200)
    await broker.admin.enableSubscription(subscription.id)
    await eventually(() => sink.hits.length >= 3)
  })

  test('a message that waits behind a hanging one goes to somebody else', async () => {
    const [slow, other] = [await sinkOf(), await sinkOf()]
    const { queue, subscription } = await onQueue(slow, { concurrency: 2 })
    await send(broker, queue, '0')
    await eventually(() => slow.hits.length === 1)
    slow.answer = () => {}
    await send(broker, queue, ...Array.from({ length: 4 }, (_, n) => `${n + 1}`))
    await eventually(() => slow.hits.length === 3)
    await subscribe({ queue }, other)
    await eventually(() => other.hits.length === 2, 20_000)
    await broker.admin.deleteSubscription(subscription.id)
  }, 30_000)
})

describe('a subscription', () => {
  test('disabled keeps its backlog, enabled goes on; a change applies to the next attempt', async () => {
    const [first, second] = [await sinkOf(), await sinkOf()]
    await broker.admin.putTopic('changing', {})
    const { subscription } = await subscribe({ topic: 'changing', pattern: '#', filter: null }, first)
    await broker.publish('changing', '', message('1'))
    await eventually(() => first.hits.length === 1)
    await broker.admin.disableSubscription(subscription.id)
    await broker.publish('changing', '', message('2'))
    await broker.publish('changing', '', message('3'))
    expect((await broker.admin.getSubscription(subscription.id)).counts.ready).toBe(2)
    await broker.admin.updateSubscription(subscription.id, { url: second.url })
    await broker.admin.enableSubscription(subscription.id)
    await eventually(() => second.hits.length === 2)
    expect(second.bodies()).toEqual(['2', '3'])
    expect(first.hits).toHaveLength(1)
  })

  test('signs with every live secret while its secret is rotated', async () => {
    const sink = await sinkOf()
    const { queue, secret: old, subscription } = await onQueue(sink)
    const fresh = newSecret()
    const secrets = await broker.admin.rotateSecret(subscription.id, fresh, 60_000)
    expect(secrets).toMatchObject([
      { secret: fresh, expiresAt: null },
      { secret: old, expiresAt: expect.any(Date) },
    ])
    // Whoever delivers hears of it a moment later.
    const nextVerifiedBy = async (secret: string): Promise<boolean> => {
      sink.hits.length = 0
      await send(broker, queue, '{}')
      const hit = await eventually(() => sink.hits[0])
      return verifies(secret, hit.body.toString(), hit.headers)
    }
    await eventually(() => nextVerifiedBy(fresh))
    expect(await nextVerifiedBy(old)).toBe(true)
    await broker.admin.rotateSecret(subscription.id, newSecret(), 0)
    await eventually(async () => !(await nextVerifiedBy(fresh)))
  })

  test('replays its dead letters, and what the topic has kept, under the same ids', async () => {
    const sink = await sinkOf(status(500))
    await broker.admin.putTopic('replayed', {})
    const source = { topic: 'replayed', pattern: 'a.#', filter: null }
    const { subscription } = await subscribe(source, sink, { maxAttempts: 1 })
    const first = await broker.publish('replayed', 'a', message('{"n":1}'))
    await broker.publish('replayed', 'b', message('{"n":2}'))
    await eventually(async () => (await broker.admin.getSubscription(subscription.id)).counts.dead === 1)
    sink.answer = status(200)
    expect(await broker.admin.replay(subscription.id, { state: 'dead', from: null, to: null })).toBe(1)
    await eventually(() => sink.hits.length === 2)
    expect(sink.hits.map((hit) => [hit.headers['webhook-id'], hit.headers['postern-attempt']])).toEqual([
      [first.id, '1'],
      [first.id, '1'],
    ])
    await eventually(async () => (await broker.admin.getSubscription(subscription.id)).counts.leased === 0)
    expect(await broker.admin.replay(subscription.id, { state: 'past', from: new Date(0), to: null })).toBe(1)
    await eventually(() => sink.hits.length === 3)
    expect(sink.bodies()).toEqual(Array.from({ length: 3 }, () => '{"n":1}'))
    expect(await broker.admin.replay(subscription.id, { state: 'past', from: null, to: new Date(0) })).toBe(0)
  })

  test('that is deleted in the middle of a delivery takes its backlog along and disturbs nobody', async () => {
    const sink = await sinkOf((_hit, response) => void setTimeout(() => response.end(), 200))
    await broker.admin.putTopic('leaving', {})
    const { subscription } = await subscribe({ topic: 'leaving', pattern: '#', filter: null }, sink)
    await broker.publish('leaving', '', message('1'))
    await eventually(() => sink.hits.length === 1)
    await broker.admin.deleteSubscription(subscription.id)
    expect((await broker.publish('leaving', '', message('2'))).matched).toBe(0)
    await expect(broker.admin.getQueue(subscription.queue)).rejects.toMatchObject({ code: 'queue_not_found' })
    await expect(broker.admin.getSubscription(subscription.id)).rejects.toMatchObject({
      code: 'subscription_not_found',
    })
  })
})

function verifies(secret: string, body: string, headers: Record<string, string>): boolean {
  try {
    new Webhook(secret).verify(body, headers)
    return true
  } catch {
    return false
  }
}
