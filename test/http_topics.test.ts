/** Topics over HTTP: settings, bindings, publishing byte for byte, and who would get what. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, rootKey, type TestApp, testApp } from './support/app.ts'
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

describe('/v1/topics', () => {
  test('a bare PUT creates a topic with the defaults, and again only ensures it', async () => {
    const first = await put('bare')
    expect(first.status).toBe(201)
    expect(first.headers.get('location')).toBe('/v1/topics/bare')
    expect(await read(first)).toEqual({
      name: 'bare',
      retention: '1h',
      dedup_window: '5m',
      counts: { bindings: 0, subscriptions: 0 },
      created_at: expect.any(String),
      updated_at: expect.any(String),
    })
    expect((await put('bare')).status).toBe(200)
  })

  test('settings that are not given keep their value', async () => {
    await put('kept', { retention: '7d', dedup_window: 0 })
    expect(await read(await put('kept', { dedup_window: '1m' }))).toMatchObject({ retention: '7d', dedup_window: '1m' })
    expect(await read(await app.request('/v1/topics/kept'))).toMatchObject({ retention: '7d', dedup_window: '1m' })
  })

  test.each<[unknown, string]>([
    [{ retention: '366d' }, '/retention'],
    [{ retention: 'long' }, '/retention'],
    [{ retention: null }, '/retention'],
    [{ dedup_window: '31d' }, '/dedup_window'],
    [{ dedup_window: -1 }, '/dedup_window'],
    [{ wat: 1 }, '/wat'],
    [[], ''],
    [null, ''],
    ['text', ''],
  ])('%j is refused by name', async (json, pointer) => {
    expect(await refusal(await put('wrong', json))).toEqual(invalidField(pointer))
  })

  test('malformed JSON is 400, another type 415, a monstrous body 413, a bad name 422', async () => {
    const send = (body: string, type: string) =>
      app.request('/v1/topics/x', { method: 'PUT', body, headers: { 'content-type': type } })
    expect(await refusal(await send('{', 'application/json'))).toMatchObject({ status: 400, code: 'malformed_json' })
    expect(await refusal(await send('{}', 'text/plain'))).toMatchObject({ status: 415 })
    expect(await refusal(await send(' '.repeat(10 * 1024 * 1024 + 1), ''))).toMatchObject({ status: 413 })
    for (const name of ['a%2Fb', '-a', 'a'.repeat(81)])
      expect(await refusal(await put(name))).toEqual(invalidField('path/topic'))
  })

  test('an unknown topic is 404 everywhere', async () => {
    await queue('some')
    for (const [method, path] of [
      ['GET', ''],
      ['DELETE', ''],
      ['POST', '/messages'],
      ['POST', '/test'],
      ['GET', '/bindings'],
      ['GET', '/bindings/x'],
      ['DELETE', '/bindings/x'],
    ]) {
      const answer = await app.request(`/v1/topics/absent${path}`, { method: String(method) })
      expect(await refusal(answer), `${method} ${path}`).toMatchObject({ status: 404, code: 'topic_not_found' })
    }
    expect(await refusal(await bind('absent', 'x', { queue: 'some' }))).toMatchObject({
      status: 404,
      code: 'topic_not_found',
    })
  })

  test('pages follow each other by name', async () => {
    for (const name of ['page1', 'page2', 'page3']) await put(name)
    const names: string[] = []
    let cursor: string | null = ''
    do {
      const answer = await app.request(`/v1/topics?limit=2${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`)
      const page = (await answer.json()) as { data: { name: string }[]; next_cursor: string | null }
      names.push(...page.data.map(({ name }) => name))
      cursor = page.next_cursor
    } while (cursor)
    expect(names).toEqual([...new Set(names)].sort())
    expect(names).toEqual(expect.arrayContaining(['page1', 'page2', 'page3']))
    expect(await refusal(await app.request('/v1/topics?wat=1'))).toEqual(invalidField('query/wat'))
    expect(await refusal(await app.request('/v1/topics?cursor=made-up'))).toMatchObject({ status: 422 })
  })

  test('a topic goes with its bindings; one whose subscriptions have messages left only by force', async () => {
    await topicWith('doomed', { gone: {} })
    await app.request('/v1/subscriptions', { method: 'POST', json: { topic: 'doomed', url: 'https://example.com' } })
    expect(await read(await app.request('/v1/topics/doomed'))).toMatchObject({
      counts: { bindings: 1, subscriptions: 1 },
    })
    expect(await matched(await publish('doomed', 'x'))).toBe(2)
    const remove = (query = '') => app.request(`/v1/topics/doomed${query}`, { method: 'DELETE' })
    expect(await refusal(await remove())).toMatchObject({ status: 409, code: 'topic_not_empty' })
    expect(await refusal(await remove('?force=1'))).toEqual(invalidField('query/force'))
    expect((await remove('?force=true')).status).toBe(204)
    expect((await remove()).status).toBe(404)
    expect(await bodiesIn('gone')).toEqual(['x'])
    await put('doomed')
    expect((await app.request('/v1/topics/doomed', { method: 'DELETE' })).status).toBe(204)
  })
})

describe('bindings', () => {
  test('a PUT creates a binding, and replaces it whole', async () => {
    await put('bound')
    await queue('q1')
    await queue('q2')
    const filter = { body: { total: [{ numeric: ['>', 100] }] } }
    const first = await bind('bound', 'b', { queue: 'q1', pattern: 'a.*', filter })
    expect(first.status).toBe(201)
    expect(first.headers.get('location')).toBe('/v1/topics/bound/bindings/b')
    expect(await read(first)).toEqual({
      name: 'b',
      topic: 'bound',
      queue: 'q1',
      pattern: 'a.*',
      filter,
      created_at: expect.any(String),
      updated_at: expect.any(String),
    })
    const second = await bind('bound', 'b', { queue: 'q2' })
    expect(second.status).toBe(200)
    expect(await read(second)).toMatchObject({ queue: 'q2', pattern: '#', filter: null })
    expect(await read(await app.request('/v1/topics/bound/bindings/b'))).toMatchObject({ queue: 'q2', pattern: '#' })
    expect(await read(await app.request('/v1/topics/bound'))).toMatchObject({ counts: { bindings: 1 } })
    expect(await read(await bind('bound', 'b', { queue: 'q2', filter: null }))).toMatchObject({ filter: null })
  })

  test('they are listed by name, and deleted once', async () => {
    await topicWith('listed', { one: {}, two: {}, three: {} })
    type Page = { data: { name: string }[]; next_cursor: string | null }
    const list = async (query: string) =>
      (await (await app.request(`/v1/topics/listed/bindings${query}`)).json()) as Page
    const first = await list('?limit=2')
    expect(first.data.map(({ name }) => name)).toEqual(['one', 'three'])
    expect(await list(`?limit=2&cursor=${encodeURIComponent(first.next_cursor ?? '')}`)).toMatchObject({
      data: [{ name: 'two' }],
      next_cursor: null,
    })
    const remove = () => app.request('/v1/topics/listed/bindings/two', { method: 'DELETE' })
    expect((await remove()).status).toBe(204)
    expect(await refusal(await remove())).toMatchObject({ status: 404, code: 'binding_not_found' })
    const get = await app.request('/v1/topics/listed/bindings/two')
    expect(await refusal(get)).toMatchObject({ status: 404, code: 'binding_not_found' })
    expect(await matched(await publish('listed', 'x'))).toBe(2)
    expect(await refusal(await app.request('/v1/topics/listed/bindings?limit=0'))).toEqual(invalidField('query/limit'))
  })

  test.each<[unknown, string]>([
    [{}, '/queue'],
    [{ queue: 7 }, '/queue'],
    [{ queue: '../x' }, '/queue'],
    [{ queue: 'nowhere' }, '/queue'],
    [{ queue: 'some', pattern: 7 }, '/pattern'],
    [{ queue: 'some', pattern: null }, '/pattern'],
    [{ queue: 'some', pattern: 'a'.repeat(256) }, '/pattern'],
    [{ queue: 'some', pattern: 'a\u0000' }, '/pattern'],
    [{ queue: 'some', filter: 'x' }, '/filter'],
    [{ queue: 'some', filter: [] }, '/filter'],
    [{ queue: 'some', filter: {} }, '/filter'],
    [{ queue: 'some', filter: { wat: ['x'] } }, '/filter/wat'],
    [{ queue: 'some', filter: { body: { 'a/b~c': [{ wat: 1 }] } } }, '/filter/body/a~1b~0c/0/wat'],
    [{ queue: 'some', filter: { body: { n: [{ numeric: ['>', 'x'] }] } } }, '/filter/body/n/0/numeric/1'],
    [{ queue: 'some', wat: 1 }, '/wat'],
    [[], ''],
    ['text', ''],
  ])('%j is refused by name', async (json, pointer) => {
    await put('strict')
    await queue('some')
    expect(await refusal(await bind('strict', 'x', json))).toEqual(invalidField(pointer))
  })

  test("a binding's name is a name like others, and its body JSON", async () => {
    await put('strict')
    for (const method of ['PUT', 'GET', 'DELETE'])
      expect(
        await refusal(
          await app.request('/v1/topics/strict/bindings/-x', {
            method,
            ...(method === 'PUT' ? { json: { queue: 'some' } } : {}),
          }),
        ),
      ).toEqual(invalidField('path/name'))
    const path = '/v1/topics/strict/bindings/x'
    const text = { method: 'PUT', body: '{}', headers: { 'content-type': 'text/plain' } }
    expect(await refusal(await app.request(path, text))).toMatchObject({ status: 415 })
    const huge = { method: 'PUT', body: ' '.repeat(10 * 1024 * 1024 + 1), headers: { 'content-type': '' } }
    expect(await refusal(await app.request(path, huge))).toMatchObject({ status: 413 })
  })

  test("a subscription's backlog cannot be bound", async () => {
    await put('backlogs')
    const json = { topic: 'backlogs', url: 'https://example.com' }
    const made = await read(await app.request('/v1/subscriptions', { method: 'POST', json }))
    expect(await refusal(await bind('backlogs', 'x', { queue: made.backlog_queue }))).toEqual(invalidField('/queue'))
  })

  test('deleting a queue removes its bindings', async () => {
    await topicWith('leaky', { stays: {}, goes: {} })
    await app.request('/v1/queues/goes', { method: 'DELETE' })
    expect(await matched(await publish('leaky', 'x'))).toBe(1)
    expect(await read(await app.request('/v1/topics/leaky/bindings'))).toMatchObject({ data: [{ name: 'stays' }] })
    expect((await app.request('/v1/topics/leaky/bindings/goes')).status).toBe(404)
    await queue('goes')
    expect(await matched(await publish('leaky', 'x'))).toBe(1)
  })
})

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

describe('scopes', () => {
  let keyed: TestApp
  beforeAll(async () => {
    keyed = await testApp({ rootKey, open: false })
  })
  afterAll(() => keyed.stop())
  const bearer = (key: string) => ({ authorization: `Bearer ${key}` })
  const asRoot = (path: string, init: { method?: string; json?: unknown } = {}) =>
    keyed.request(path, { ...init, headers: bearer(rootKey) })
  async function keyFor(...scopes: Fields[]): Promise<string> {
    const answer = await asRoot('/v1/keys', { method: 'POST', json: { name: 'test', scopes } })
    expect(answer.status).toBe(201)
    return String((await read(answer)).key)
  }

  const everything: [action: string, method: string, path: string][] = [
    ['manage', 'PUT', ''],
    ['read', 'GET', ''],
    ['manage', 'DELETE', ''],
    ['send', 'POST', '/messages'],
    ['read', 'POST', '/test'],
    ['read', 'GET', '/bindings'],
    ['manage', 'PUT', '/bindings/b'],
    ['read', 'GET', '/bindings/b'],
    ['manage', 'DELETE', '/bindings/b'],
  ]

  test('each action opens its calls and no others, on the topics named and no others', async () => {
    for (const action of ['send', 'receive', 'read', 'manage']) {
      const key = await keyFor({ actions: [action], topics: ['mine.*'] })
      const queues = await keyFor({ actions: [action], queues: ['*'] })
      for (const [needed, method, path] of everything) {
        const call = async (topic: string, as: string) =>
          (await keyed.request(`/v1/topics/${topic}${path}`, { method, headers: bearer(as) })).status
        const what = `${action}: ${method} ${path}`
        expect(await call('other', key), `${what} of another topic`).toBe(403)
        expect(await call('mine.absent', queues), `${what} with a scope on queues`).toBe(403)
        const status = await call('mine.absent', key)
        if (needed === action) expect(status, what).not.toBe(403)
        else expect(status, what).toBe(403)
      }
    }
  })

  test('a key for topics opens no queue', async () => {
    const key = await keyFor({ actions: ['send', 'receive', 'read', 'manage'], topics: ['*'] })
    for (const [method, path] of [
      ['GET', '/v1/queues/x'],
      ['PUT', '/v1/queues/x'],
      ['POST', '/v1/queues/x/messages'],
    ])
      expect((await keyed.request(String(path), { method: String(method), headers: bearer(key) })).status).toBe(403)
  })

  test('the refusal names the topic', async () => {
    const key = await keyFor({ actions: ['send'], topics: ['mine'] })
    const answer = await keyed.request('/v1/topics/other', { headers: bearer(key) })
    expect(await read(answer)).toMatchObject({ detail: 'This API key has no scope to read on topic other.' })
  })

  test('a list shows only what may be read', async () => {
    for (const name of ['see.a', 'see.b', 'hide.c']) await asRoot(`/v1/topics/${name}`, { method: 'PUT' })
    const key = await keyFor({ actions: ['read'], topics: ['see.*'] })
    const answer = await keyed.request('/v1/topics', { headers: bearer(key) })
    const { data } = (await answer.json()) as { data: { name: string }[] }
    expect(data.map(({ name }) => name)).toEqual(['see.a', 'see.b'])
    for (const blind of [
      { actions: ['send'], topics: ['*'] },
      { actions: ['read'], queues: ['*'] },
    ]) {
      const refused = await keyed.request('/v1/topics', { headers: bearer(await keyFor(blind)) })
      expect(await refusal(refused)).toMatchObject({ status: 403, code: 'forbidden' })
    }
  })

  test('a binding does not lead into a queue that the key may not touch', async () => {
    await asRoot('/v1/topics/way', { method: 'PUT' })
    await asRoot('/v1/queues/secret', { method: 'PUT' })
    const topic = { actions: ['manage'], topics: ['way'] }
    const via = async (...scopes: Fields[]) => {
      const headers = bearer(await keyFor(topic, ...scopes))
      return keyed.request('/v1/topics/way/bindings/b', { method: 'PUT', headers, json: { queue: 'secret' } })
    }
    expect(await refusal(await via())).toMatchObject({ status: 403, code: 'forbidden' })
    expect((await via({ actions: ['read', 'receive'], queues: ['secret'] })).status).toBe(403)
    expect((await via({ actions: ['send'], queues: ['secret'] })).status).toBe(201)
    expect((await via({ actions: ['manage'], queues: ['secret'] })).status).toBe(200)
  })

  test('without a key everything is 401', async () => {
    for (const [, method, path] of everything)
      expect((await keyed.request(`/v1/topics/x${path}`, { method })).status).toBe(401)
    expect((await keyed.request('/v1/topics')).status).toBe(401)
  })
})
