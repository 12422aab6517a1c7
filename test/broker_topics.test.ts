/** Publishing: who gets a copy, that all copies commit together, and where bodies lie. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { defaultSubscription, type Filter, type SettleAction } from '../src/model/index.ts'
import { newSecret } from '../src/push/index.ts'
import { ack, type Bench, bodies, brokersOn, message, receive, send, settle } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

let bench: Bench
let a: Broker
let b: Broker

beforeAll(async () => {
  bench = await brokersOn(2)
  ;[a, b] = bench.brokers as [Broker, Broker]
})
afterAll(() => bench.stop())

async function topic(name: string, queues: string[], settings: Parameters<Broker['admin']['putTopic']>[1] = {}) {
  await a.admin.putTopic(name, settings)
  for (const queue of queues) {
    await a.admin.putQueue(queue, {})
    await bind(name, queue)
  }
}

const bind = (name: string, queue: string, pattern = '#', filter: Filter | null = null) =>
  a.admin.putBinding(name, `to-${queue}`, { queue, pattern, filter })

const ready = async (queue: string) => (await a.admin.getQueue(queue)).counts.ready
const logged = async () =>
  (await bench.db.sql<{ n: number }[]>`select count(*)::int as n from postern.topic_log`)[0]?.n ?? 0
const large = JSON.stringify({ text: 'x'.repeat(1000) })

describe('a publish', () => {
  test('is answered with one id, which every copy has, and how many copies there are', async () => {
    await topic('fan', ['fan1', 'fan2', 'fan3'])
    await bind('fan', 'fan3', 'other')
    const published = await a.publish('fan', 'some.key', message('x', { headers: { tenant: 'acme' } }))
    expect(published).toMatchObject({ matched: 2, deduplicated: false })
    for (const queue of ['fan1', 'fan2']) {
      const got = await receive(b, queue, 10)
      expect(got).toMatchObject([{ id: published.id, attempt: 1 }])
      expect(got[0]?.headers).toEqual({
        tenant: 'acme',
        'postern-topic': 'fan',
        'postern-routing-key': 'some.key',
      })
      expect(await ack(a, ...got)).toEqual(['acked'])
    }
    expect(await ready('fan3')).toBe(0)
  })

  test('to which nothing is bound is accepted and goes nowhere', async () => {
    await a.admin.putTopic('nowhere', {})
    expect(await a.publish('nowhere', '', message('x'))).toMatchObject({ matched: 0 })
    await expect(a.publish('missing', '', message('x'))).rejects.toMatchObject({ code: 'topic_not_found' })
  })

  test('makes one copy for a queue that is bound twice', async () => {
    await topic('twice', ['twice1'])
    await a.admin.putBinding('twice', 'again', { queue: 'twice1', pattern: 'a.*', filter: null })
    expect(await a.publish('twice', 'a.b', message('x'))).toMatchObject({ matched: 1 })
    expect(await ready('twice1')).toBe(1)
  })

  test('is handed to receivers that wait, in every queue', async () => {
    await topic('waited', ['waited1', 'waited2'])
    const waiting = ['waited1', 'waited2'].map((queue) => receive(a, queue, 5, { waitMs: 5000 }))
    await eventually(() => true)
    await a.publish('waited', '', message(large))
    for (const got of await Promise.all(waiting)) {
      expect(bodies(got)).toEqual([large])
      expect(await ack(b, ...got)).toEqual(['acked'])
    }
  })

  test('with a dedup id that was there before stores nothing more, on any gateway', async () => {
    await topic('once', ['once1'])
    const first = await a.publish('once', '', message('x', { dedupId: 'd' }))
    const results = await Promise.all(
      [a, b, a, b].map((each) => each.publish('once', '', message('x', { dedupId: 'd' }))),
    )
    expect(results.every(({ id, deduplicated }) => id === first.id && deduplicated)).toBe(true)
    await send(a, 'once1', message('direct', { dedupId: 'd' }))
    expect(await ready('once1')).toBe(2)
  })

  test('with a delay is not early, and keeps its body', async () => {
    await topic('later', ['later1', 'later2'])
    const startMs = performance.now()
    await a.publish('later', '', message(large, { delayMs: 300 }))
    expect(await receive(a, 'later1')).toEqual([])
    const got = await receive(b, 'later1', 1, { waitMs: 5000 })
    expect(performance.now() - startMs).toBeGreaterThan(299)
    expect(bodies(got)).toEqual([large])
  })

  test('keeps order, priority and lifo of each queue', async () => {
    await topic('ordered', ['ordered1'])
    await a.admin.putQueue('stack', { order: 'lifo' })
    await bind('ordered', 'stack')
    for (const body of ['1', '2', '3']) await a.publish('ordered', '', message(body))
    await a.publish('ordered', '', message('0', { priority: 9 }))
    expect(bodies(await receive(b, 'ordered1', 10))).toEqual(['0', '1', '2', '3'])
    expect(bodies(await receive(b, 'stack', 10))).toEqual(['0', '3', '2', '1'])
  })
})

describe('all copies commit together', () => {
  test('when one queue is full nothing is stored anywhere, and nothing is dropped to make room', async () => {
    await topic('bounded', ['bounded1', 'bounded2', 'bounded3'])
    await a.admin.putQueue('bounded1', { maxMessages: 1, overflow: 'drop_oldest' })
    await a.admin.putQueue('bounded3', { maxMessages: 1 })
    expect(await a.publish('bounded', '', message('1'))).toMatchObject({ matched: 3 })
    await expect(a.publish('bounded', '', message('2'))).rejects.toMatchObject({
      code: 'queue_full',
      message: expect.stringContaining('bounded3'),
    })
    for (const queue of ['bounded1', 'bounded2', 'bounded3']) {
      const got = await receive(a, queue, 5)
      expect(bodies(got)).toEqual(['1'])
      await ack(a, ...got)
    }
    await send(a, 'bounded1', '2')
    await a.admin.putQueue('bounded3', { maxMessages: null })
    await a.publish('bounded', '', message('3'))
    expect(bodies(await receive(a, 'bounded1', 5))).toEqual(['3'])
  })

  test('a thousand bindings', async () => {
    await a.admin.putTopic('wide', {})
    for (let n = 0; n < 1000; n++) await a.admin.putQueue(`wide${n}`, {})
    await Promise.all(Array.from({ length: 1000 }, (_, n) => bind('wide', `wide${n}`, n % 2 ? '#' : `k.${n}`)))
    expect(await b.publish('wide', 'k.8', message(large))).toMatchObject({ matched: 501 })
    const rows = await bench.db.sql`select count(*)::int as n, count(m.body)::int as bodies from postern.messages m
      join postern.queues q on q.id = m.queue_id where q.name like 'wide%'`
    expect(rows).toMatchObject([{ n: 501, bodies: 0 }])
    expect(bodies(await receive(a, 'wide8'))).toEqual([large])
  }, 60_000)
})

describe('a change', () => {
  test('of a binding, made on one gateway, applies to the next publish on the other', async () => {
    await topic('changed', ['changed1'])
    for (let round = 0; round < 20; round++) {
      await bind('changed', 'changed1', `v${round}`)
      expect(await b.publish('changed', `v${round}`, message('x'))).toMatchObject({ matched: 1 })
      expect(await b.publish('changed', `v${round - 1}`, message('x'))).toMatchObject({ matched: 0 })
    }
    await a.admin.deleteBinding('changed', 'to-changed1')
    expect(await b.publish('changed', 'v19', message('x'))).toMatchObject({ matched: 0 })
  })

  test('in the middle of many publishes loses none: each is routed by what was there before or after', async () => {
    await topic('churned', ['churned1'])
    let done = false
    const changing = (async () => {
      for (let n = 0; !done; n++) await bind('churned', 'churned1', n % 2 ? '#' : 'k.#')
    })()
    const publishing = Array.from({ length: 200 }, (_, n) => (n % 2 ? a : b).publish('churned', 'k.x', message(`${n}`)))
    const published = await Promise.all(publishing).finally(() => {
      done = true
    })
    await changing
    expect(published.every(({ matched }) => matched === 1)).toBe(true)
    expect(await ready('churned1')).toBe(200)
  })

  test('a queue that is deleted takes its bindings along, a topic that is deleted its backlogs', async () => {
    await topic('shrinking', ['shrinking1'])
    await a.admin.deleteQueue('shrinking1', true)
    expect((await a.admin.listBindings('shrinking', { limit: 10, cursor: null })).data).toEqual([])
    expect(await b.publish('shrinking', '', message('x'))).toMatchObject({ matched: 0 })
    const source = { topic: 'shrinking', pattern: '#', filter: null }
    const settings = { ...defaultSubscription, url: 'http://127.0.0.1:9/' }
    const { id, queue } = await a.admin.createSubscription(source, settings, newSecret())
    expect(await b.publish('shrinking', '', message('x'))).toMatchObject({ matched: 1 })
    await expect(a.admin.deleteTopic('shrinking', false)).rejects.toMatchObject({ code: 'topic_not_empty' })
    await a.admin.deleteTopic('shrinking', true)
    await expect(b.publish('shrinking', '', message('x'))).rejects.toMatchObject({ code: 'topic_not_found' })
    await expect(a.admin.getSubscription(id)).rejects.toMatchObject({ code: 'subscription_not_found' })
    await expect(a.admin.getQueue(queue)).rejects.toMatchObject({ code: 'queue_not_found' })
  })
})

describe('a shared body', () => {
  test('is stored once, follows its copies through retries, and goes with the last of them', async () => {
    await topic('shared', ['shared1', 'shared2'], { retentionMs: 0 })
    const before = await logged()
    await a.publish('shared', '', message(large))
    expect(await logged()).toBe(before + 1)
    const [first] = await receive(a, 'shared1')
    await settle(b, { action: 'nack', receipt: first?.receipt ?? '', delayMs: 50 })
    const [again] = await receive(b, 'shared1', 1, { waitMs: 5000 })
    expect(again?.body.toString()).toBe(large)
    await ack(a, ...(again ? [again] : []))
    const [other] = await receive(a, 'shared2')
    await settle(a, { action: 'reject', receipt: other?.receipt ?? '', reason: 'no' })
    await eventually(async () => (await logged()) === before)
    // A dead letter has a body of its own.
    const { data } = await a.admin.browseMessages('shared2', 'dead', { limit: 5, cursor: null })
    expect(data.map((each) => each.body.toString())).toEqual([large])
  }, 20_000)

  test('is kept as long as the topic says', async () => {
    await topic('kept', ['kept1'], { retentionMs: 60_000 })
    const before = await logged()
    await a.publish('kept', '', message('small'))
    const got = await receive(a, 'kept1')
    await ack(a, ...got)
    expect(await logged()).toBe(before + 1)
  })

  test('counts against a bound on bytes', async () => {
    await topic('weighed', ['weighed1', 'weighed2'])
    await a.admin.putQueue('weighed1', { maxBytes: 1500 })
    await a.publish('weighed', '', message(large))
    await expect(a.publish('weighed', '', message(large))).rejects.toMatchObject({ code: 'queue_full' })
  })
})

test('a second ack of one copy is told "already acked", while another queue still has the message', async () => {
  await topic('twins', ['twins1', 'twins2'])
  await a.publish('twins', '', message('x'))
  const [one] = await receive(a, 'twins1')
  const [two] = await receive(a, 'twins2')
  await settle(a, { action: 'nack', receipt: two?.receipt ?? '', delayMs: 0 })
  expect(await ack(a, ...(one ? [one] : []))).toEqual(['acked'])
  expect(await ack(b, ...(one ? [one] : []))).toEqual(['acked'])
  expect(await ack(b, ...(two ? [two] : []))).toEqual(['lease_lost'])
})

test('a lost lease of one copy is not answered with the live lease of another, though both are settled together', async () => {
  await topic('mixed', ['mixed1', 'mixed2'])
  for (let round = 0; round < 10; round++) {
    await a.publish('mixed', '', message('x'))
    const [lost] = await receive(a, 'mixed1')
    const [live] = await receive(a, 'mixed2')
    await settle(b, { action: 'nack', receipt: lost?.receipt ?? '', delayMs: 0 })
    const [again] = await receive(b, 'mixed1')
    const both = (action: (receipt: string) => SettleAction) =>
      Promise.all([lost, live].map((each) => settle(a, action(each?.receipt ?? ''))))
    expect(await both((receipt) => ({ action: 'extend', receipt, leaseMs: 60_000 }))).toEqual([
      ['lease_lost'],
      ['extended'],
    ])
    expect(await both((receipt) => ({ action: 'ack', receipt }))).toEqual([['lease_lost'], ['acked']])
    await ack(b, ...(again ? [again] : []))
  }
})

test("bindings, subscriptions and queues that come and go at once stand in nobody's way for good", async () => {
  await topic('busy', ['busy1'])
  await a.admin.putQueue('stays', {})
  const settings = { ...defaultSubscription, url: 'http://127.0.0.1:9/' }
  const source = { topic: 'busy', pattern: '#', filter: null }
  const work = [
    () => bind('busy', 'busy1'),
    () => a.admin.deleteBinding('busy', 'to-busy1').catch(() => {}),
    () => b.admin.putBinding('busy', 'stays', { queue: 'stays', pattern: '#', filter: null }),
    async () => {
      const { id } = await b.admin.createSubscription(source, settings, newSecret())
      await a.admin.updateSubscription(id, { concurrency: 2 })
      await a.admin.deleteSubscription(id)
    },
    async () => {
      await a.admin.putQueue('comes', {})
      await b.admin.putBinding('busy', 'comes', { queue: 'comes', pattern: '#', filter: null }).catch(() => {})
      await a.admin.deleteQueue('comes', true)
    },
    () => a.publish('busy', 'k', message('x')),
  ]
  for (let round = 0; round < 15; round++) await Promise.all(work.map((each) => each()))
}, 60_000)
