/** Publishing over HTTP: byte for byte to all that match, and who would that be. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'
import { brokersOn } from './support/broker.ts'

const maxBodyBytes = 10_000
let app: TestApp
beforeAll(async () => {
  app = await testApp({ maxBodyBytes })
})
afterAll(() => app.stop())

type Fields = Record<string, unknown>
const read = async (answer: Response) => (await answer.json()) as Fields
const put = (name: string, json?: unknown) =>
  app.request(`/v1/topics/${name}`, { method: 'PUT', ...(json === undefined ? {} : { json }) })
const bind = (topic: string, name: string, json: unknown, on = app) =>
  on.request(`/v1/topics/${topic}/bindings/${name}`, { method: 'PUT', json })
const queue = (name: string, json?: unknown) =>
  app.request(`/v1/queues/${name}`, { method: 'PUT', ...(json === undefined ? {} : { json }) })

type Init = { query?: string; headers?: Record<string, string>; on?: TestApp; call?: 'messages' | 'test' }
const publish = (topic: string, body: string | Uint8Array, { query = '', headers = {}, on = app, call }: Init = {}) =>
  on.request(`/v1/topics/${topic}/${call ?? 'messages'}${query}`, {
    method: 'POST',
    headers,
    body: Buffer.from(body) as Uint8Array<ArrayBuffer>,
  })
const matched = async (answer: Response) => {
  expect(answer.status).toBe(202)
  return (await read(answer)).matched
}
const bodiesIn = async (name: string, state = 'ready') => {
  const answer = await app.request(`/v1/queues/${name}/messages?state=${state}`)
  return ((await answer.json()) as { data: { body: string }[] }).data.map(({ body }) => body)
}

/** A topic with queues of these names bound by these bindings. */
async function topicWith(topic: string, bindings: Record<string, Fields>): Promise<void> {
  await put(topic)
  for (const [name, binding] of Object.entries(bindings)) {
    await queue(String(binding.queue ?? name))
    expect((await bind(topic, name, { queue: name, ...binding })).status).toBe(201)
  }
}

describe('publishing', () => {
  test('each queue that matches gets one copy, however many of its bindings match', async () => {
    await topicWith('routes', {
      all: {},
      exact: { pattern: 'orders.eu.created' },
      word: { pattern: 'orders.*.created' },
      twice: { queue: 'all', pattern: 'orders.#' },
    })
    const answer = await publish('routes', 'one', { query: '?routing_key=orders.eu.created' })
    expect(answer.status).toBe(202)
    expect(await read(answer)).toEqual({ id: expect.stringMatching(/^msg_/), matched: 3 })
    expect(await matched(await publish('routes', 'two', { query: '?routing_key=orders.us.created' }))).toBe(2)
    expect(await matched(await publish('routes', 'three'))).toBe(1)
    expect(await bodiesIn('all')).toEqual(['one', 'two', 'three'])
    expect(await bodiesIn('exact')).toEqual(['one'])
    expect(await bodiesIn('word')).toEqual(['one', 'two'])
  })

  test('a topic without bindings takes a message and matches nobody', async () => {
    await put('void')
    expect(await matched(await publish('void', 'x'))).toBe(0)
  })

  test('any bytes come out of every copy as they went in', async () => {
    await topicWith('exact.topic', { bytes1: {}, bytes2: {} })
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 2000 }), async (body) => {
        expect(await matched(await publish('exact.topic', body))).toBe(2)
        for (const name of ['bytes1', 'bytes2']) {
          const raw = await app.request(`/v1/queues/${name}/receive?raw=true`, { method: 'POST' })
          expect(Buffer.from(await raw.arrayBuffer()).equals(Buffer.from(body))).toBe(true)
          await app.request(`/v1/leases/${raw.headers.get('postern-receipt')}`, { method: 'DELETE' })
        }
      }),
      { numRuns: 20 },
    )
  })

  test('options, headers and trace come with every copy', async () => {
    await topicWith('options', { copy1: {}, copy2: {} })
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    const headers = { 'content-type': 'text/csv', 'Postern-Header-Tenant': 'a', traceparent }
    await publish('options', 'x', { query: '?routing_key=a.b&ttl=1d&priority=9&key=k', headers })
    for (const name of ['copy1', 'copy2']) {
      const [message] = await app.receive(name)
      expect(message).toMatchObject({
        content_type: 'text/csv',
        headers: { tenant: 'a', traceparent, 'postern-topic': 'options', 'postern-routing-key': 'a.b' },
        priority: 9,
        key: 'k',
      })
    }
  })

  test('a declared form that is JSON text becomes JSON', async () => {
    await topicWith('form', { forms: {} })
    await publish('form', '{"id":1}', { headers: { 'content-type': 'application/x-www-form-urlencoded' } })
    expect(await app.receive('forms')).toMatchObject([{ content_type: 'application/json', body: '{"id":1}' }])
  })

  test('a delayed publish is held back in every queue', async () => {
    await topicWith('late', { late1: {}, late2: {} })
    expect(await matched(await publish('late', 'x', { query: '?delay=1h' }))).toBe(2)
    expect(await matched(await publish('late', 'y', { query: '?deliver_at=2031-01-01T00:00:00Z' }))).toBe(2)
    for (const name of ['late1', 'late2']) {
      expect(await bodiesIn(name, 'delayed')).toEqual(['x', 'y'])
      expect(await app.receive(name)).toEqual([])
    }
  })

  test('a second publish with the same dedup_id answers with the first and stores nothing', async () => {
    await topicWith('once', { once1: {} })
    const first = await read(await publish('once', 'x', { query: '?dedup_id=a' }))
    for (const init of [{ query: '?dedup_id=a' }, { headers: { 'idempotency-key': 'a' } }]) {
      const again = await publish('once', 'y', init)
      expect(again.status).toBe(200)
      expect(await read(again)).toEqual({ id: first.id, deduplicated: true })
    }
    expect(await bodiesIn('once1')).toEqual(['x'])
    expect(await matched(await publish('once', 'z', { query: '?dedup_id=b' }))).toBe(1)
  })

  test('filters look at the headers and at the JSON body', async () => {
    await topicWith('filtered', {
      large: { filter: { body: { total: [{ numeric: ['>', 100] }] } } },
      tenants: { filter: { headers: { Tenant: [{ prefix: 'eu-' }] } } },
      both: { filter: { body: { kind: ['order'] }, headers: { tenant: [{ exists: true }] } } },
    })
    const order = JSON.stringify({ kind: 'order', total: 200 })
    expect(await matched(await publish('filtered', order))).toBe(1)
    expect(await matched(await publish('filtered', order, { headers: { 'Postern-Header-Tenant': 'eu-1' } }))).toBe(3)
    expect(await matched(await publish('filtered', 'x', { headers: { 'Postern-Header-Tenant': 'eu-1' } }))).toBe(1)
    expect(await matched(await publish('filtered', 'not JSON'))).toBe(0)
  })

  test('a full queue refuses the publish, and no other queue gets a copy', async () => {
    await topicWith('full', { roomy: {}, small: {} })
    await queue('small', { max_messages: 1 })
    expect(await matched(await publish('full', 'x'))).toBe(2)
    const full = await publish('full', 'y')
    expect(Number(full.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(await refusal(full)).toMatchObject({ status: 429, code: 'queue_full' })
    expect(await bodiesIn('roomy')).toEqual(['x'])
  })

  test('exactly the largest body passes, one byte more is 413', async () => {
    await put('large')
    for (const call of ['messages', 'test'] as const) {
      expect((await publish('large', Buffer.alloc(maxBodyBytes, 'x'), { call })).status).toBeLessThan(300)
      const over = await publish('large', Buffer.alloc(maxBodyBytes + 1, 'x'), { call })
      expect(await refusal(over)).toMatchObject({ status: 413, code: 'body_too_large' })
    }
  })

  test.each([
    ['routing_key=a%00b', 'query/routing_key'],
    [`routing_key=${'k'.repeat(256)}`, 'query/routing_key'],
    ['routing_key=a&routing_key=b', 'query/routing_key'],
    ['delay=-1', 'query/delay'],
    ['priority=10', 'query/priority'],
    ['delay=1&deliver_at=2030-01-01T00:00:00Z', 'query/deliver_at'],
    ['dedup_id=', 'query/dedup_id'],
    ['wat=1', 'query/wat'],
  ])('?%s is refused by name', async (query, pointer) => {
    await put('strict')
    for (const call of ['messages', 'test'] as const)
      expect(await refusal(await publish('strict', 'x', { query: `?${query}`, call }))).toEqual(invalidField(pointer))
  })

  test('wrong headers are refused by name', async () => {
    await put('strict')
    const headers = { 'Postern-Header-A': 'x'.repeat(16 * 1024) }
    expect(await refusal(await publish('strict', 'x', { headers }))).toEqual(invalidField('header/postern-header-*'))
    const ids = { query: '?dedup_id=b', headers: { 'idempotency-key': 'a' } }
    expect(await refusal(await publish('strict', 'x', ids))).toEqual(invalidField('header/idempotency-key'))
  })

  test('the log names the topic', async () => {
    await put('named')
    await publish('named', 'x')
    expect(app.lines.at(-1)).toMatchObject({ topic: 'named', status: 202 })
  })
})

describe('POST /v1/topics/{topic}/test', () => {
  test('says who would get a copy, and stores nothing', async () => {
    await topicWith('asked', { q1: { pattern: 'a.#' }, q2: { pattern: 'b' } })
    await bind('asked', 'again', { queue: 'q1', filter: { headers: { kind: ['x'] } } })
    const json = { topic: 'asked', url: 'https://example.com', pattern: '*.b' }
    const { id } = await read(await app.request('/v1/subscriptions', { method: 'POST', json }))
    const headers = { 'Postern-Header-Kind': 'x' }
    const answer = await publish('asked', 'x', { query: '?routing_key=a.b', headers, call: 'test' })
    expect(answer.status).toBe(200)
    expect(await read(answer)).toEqual({
      matched: 2,
      bindings: [
        { name: 'again', queue: 'q1' },
        { name: 'q1', queue: 'q1' },
      ],
      subscriptions: [id],
    })
    const none = await publish('asked', 'x', { query: '?routing_key=c', call: 'test' })
    expect(await read(none)).toEqual({ matched: 0, bindings: [], subscriptions: [] })
    expect(await bodiesIn('q1')).toEqual([])
  })
})

describe('two gateways', () => {
  test('a change of a binding applies to the next publish through either', async () => {
    const bench = await brokersOn(2)
    const apps = await Promise.all(bench.brokers.map((broker) => testApp({ broken: () => broker })))
    const [one, two] = apps as [TestApp, TestApp]
    for (const path of ['/v1/topics/shared', '/v1/queues/left', '/v1/queues/right'])
      expect((await one.request(path, { method: 'PUT' })).status).toBe(201)
    const via = async (on: TestApp) => matched(await publish('shared', 'x', { query: '?routing_key=k', on }))
    expect([await via(one), await via(two)]).toEqual([0, 0])
    await bind('shared', 'l', { queue: 'left' }, one)
    expect([await via(two), await via(one)]).toEqual([1, 1])
    await bind('shared', 'r', { queue: 'right' }, two)
    expect([await via(one), await via(two)]).toEqual([2, 2])
    await bind('shared', 'r', { queue: 'right', pattern: 'other' }, two)
    expect([await via(one), await via(two)]).toEqual([1, 1])
    await bind('shared', 'l', { queue: 'left', filter: { body: { a: [1] } } }, one)
    expect([await via(two), await via(one)]).toEqual([0, 0])
    await one.request('/v1/topics/shared', { method: 'DELETE' })
    expect((await publish('shared', 'x', { on: two })).status).toBe(404)
    await Promise.all(apps.map((each) => each.stop()))
    await bench.stop()
  })
})
