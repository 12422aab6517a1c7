/** Topics over HTTP: settings, bindings, and which keys may touch them. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, rootKey, type TestApp, testApp } from './support/app.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp()
})
afterAll(() => app.stop())

type Fields = Record<string, unknown>
const read = async (answer: Response) => (await answer.json()) as Fields
const put = (name: string, json?: unknown) =>
  app.request(`/v1/topics/${name}`, { method: 'PUT', ...(json === undefined ? {} : { json }) })
const bind = (topic: string, name: string, json: unknown) =>
  app.request(`/v1/topics/${topic}/bindings/${name}`, { method: 'PUT', json })
const queue = (name: string, json?: unknown) =>
  app.request(`/v1/queues/${name}`, { method: 'PUT', ...(json === undefined ? {} : { json }) })

const publish = (topic: string, body: string) =>
  app.request(`/v1/topics/${topic}/messages`, { method: 'POST', body: Buffer.from(body) })
const matched = async (answer: Response) => {
  expect(answer.status).toBe(202)
  return (await read(answer)).matched
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
    expect(await app.receive('gone')).toMatchObject([{ body: 'x' }])
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
