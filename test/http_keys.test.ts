/** Who may do what: keys, scopes, the root key, and the browser's other pages when no key is needed. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, rootKey, type TestApp, testApp } from './support/app.ts'
import { message, receive, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp({ rootKey, open: false })
})
afterAll(() => app.stop())

const bearer = (key: string) => ({ authorization: `Bearer ${key}` })
const asRoot = (path: string, init: { method?: string; json?: unknown } = {}) =>
  app.request(path, { ...init, headers: bearer(rootKey) })

type Created = { id: string; key: string; [field: string]: unknown }
async function newKey(scopes: unknown, more: object = {}): Promise<Created> {
  const answer = await asRoot('/v1/keys', { method: 'POST', json: { name: 'test', scopes, ...more } })
  expect(answer.status).toBe(201)
  return (await answer.json()) as Created
}

describe('without a valid key', () => {
  test.each([
    ['none', {}],
    ['another scheme', { authorization: 'Basic abc' }],
    ['no key', { authorization: 'Bearer ' }],
    ['two words', { authorization: 'Bearer a b' }],
    ['an unknown key', bearer('pk_unknown')],
    ['almost the root key', bearer(`${rootKey}x`)],
    ['a monstrous key', bearer('x'.repeat(5000))],
  ])('%s is 401 and says how to authenticate', async (_, headers) => {
    const answer = await app.request('/v1/queues/x', { method: 'PUT', headers })
    expect(answer.headers.get('www-authenticate')).toMatch(/^Bearer/)
    expect(await refusal(answer)).toMatchObject({ status: 401, code: 'unauthenticated' })
  })

  test('health, readiness and the description are served', async () => {
    for (const path of ['/healthz', '/readyz', '/openapi.json', '/docs']) {
      expect((await app.request(path)).status, path).toBe(200)
    }
  })

  test('an unknown path is 404 all the same', async () => {
    expect((await app.request('/v1/nothing')).status).toBe(404)
  })
})

describe('/v1/keys', () => {
  test('a key is created, listed without its secret, and revoked', async () => {
    const scopes = [{ actions: ['send', 'read'], queues: ['orders.*'] }]
    const created = await newKey(scopes, { expires_at: '2999-01-01T00:00:00Z' })
    expect(created).toEqual({
      id: expect.any(String),
      name: 'test',
      scopes: [{ actions: ['send', 'read'], queues: ['orders.*'], topics: [] }],
      created_at: expect.any(String),
      expires_at: '2999-01-01T00:00:00.000Z',
      rate_limit: null,
      key: expect.any(String),
    })
    const { key, ...shown } = created
    const list = await (await asRoot('/v1/keys?limit=1000')).text()
    expect((JSON.parse(list) as { data: unknown[] }).data).toContainEqual(shown)
    expect(list).not.toContain(key)
    expect(JSON.stringify(app.lines)).not.toContain(key)
    expect((await app.request('/v1/queues', { headers: bearer(key) })).status).toBe(200)
    expect((await asRoot(`/v1/keys/${created.id}`, { method: 'DELETE' })).status).toBe(204)
    expect((await app.request('/v1/queues', { headers: bearer(key) })).status).toBe(401)
    expect(await refusal(await asRoot(`/v1/keys/${created.id}`, { method: 'DELETE' }))).toMatchObject({
      status: 404,
      code: 'key_not_found',
    })
  })

  test('a long poll ends with its key: revoked or expired meanwhile, it is refused, and what came for it is somebody else’s', async () => {
    const scopes = [{ actions: ['receive'], queues: ['*'] }]
    const revoked = await newKey(scopes)
    const expiring = await newKey(scopes, { expires_at: new Date(Date.now() + 900).toISOString() })
    for (const queue of ['poll', 'poll-empty']) await app.broker.admin.putQueue(queue, {})
    const poll = (queue: string, wait: string, { key }: Created) =>
      app.http.app.request(`/v1/queues/${queue}/receive?wait=${wait}`, { method: 'POST', headers: bearer(key) })
    const polls = [poll('poll', '30s', revoked), poll('poll', '30s', expiring), poll('poll-empty', '1s', revoked)]
    await eventually(() => app.broker.watch.here().waiting.reduce((sum, [, receives]) => sum + receives, 0) === 3)
    await asRoot(`/v1/keys/${revoked.id}`, { method: 'DELETE' })
    const ids = await send(app.broker, 'poll', message('a', { delayMs: 2000 }), message('b', { delayMs: 2000 }))
    for (const answer of await Promise.all(polls))
      expect(await refusal(answer)).toMatchObject({ status: 401, code: 'unauthenticated' })
    const found = await receiveAll()
    expect(found.map(({ id }) => id).sort()).toEqual(ids.sort())
    expect(found.map(({ attempt }) => attempt)).toEqual([1, 1])

    async function receiveAll() {
      const first = await receive(app.broker, 'poll', 2, { waitMs: 5000 })
      return first.length === 2 ? first : [...first, ...(await receive(app.broker, 'poll', 2, { waitMs: 5000 }))]
    }
  })

  test('only the root key may manage keys', async () => {
    const { key } = await newKey([{ actions: ['send', 'receive', 'read', 'manage'], queues: ['*'], topics: ['*'] }])
    for (const [method, path] of [
      ['POST', '/v1/keys'],
      ['GET', '/v1/keys'],
      ['DELETE', '/v1/keys/x'],
    ]) {
      const answer = await app.request(String(path), { method: String(method), headers: bearer(key) })
      expect(await refusal(answer)).toMatchObject({ status: 403, code: 'forbidden' })
    }
  })

  const scope = { actions: ['send'], queues: ['*'] }
  test.each<[unknown, string]>([
    [{ scopes: [scope] }, '/name'],
    [{ name: '', scopes: [scope] }, '/name'],
    [{ name: 'x' }, '/scopes'],
    [{ name: 'x', scopes: [] }, '/scopes'],
    [{ name: 'x', scopes: [{ actions: [], queues: ['*'] }] }, '/scopes/0/actions'],
    [{ name: 'x', scopes: [{ actions: ['fly'], queues: ['*'] }] }, '/scopes/0/actions/0'],
    [{ name: 'x', scopes: [{ actions: ['send'] }] }, '/scopes/0'],
    [{ name: 'x', scopes: [{ actions: ['send'], queues: ['a b'] }] }, '/scopes/0/queues/0'],
    [{ name: 'x', scopes: [scope], expires_at: 'never' }, '/expires_at'],
    [{ name: 'x', scopes: [scope], expires_at: '2001-01-01T00:00:00Z' }, '/expires_at'],
    [{ name: 'x', scopes: [scope], admin: true }, '/admin'],
  ])('%j is refused by name', async (json, pointer) => {
    expect(await refusal(await asRoot('/v1/keys', { method: 'POST', json }))).toEqual(invalidField(pointer))
  })
})

describe('scopes', () => {
  const everything: [action: string, method: string, path: string][] = [
    ['manage', 'PUT', ''],
    ['read', 'GET', ''],
    ['manage', 'DELETE', ''],
    ['read', 'GET', '/stats'],
    ['manage', 'POST', '/pause'],
    ['manage', 'POST', '/resume'],
    ['manage', 'POST', '/purge'],
    ['send', 'POST', '/messages'],
    ['send', 'POST', '/messages/batch'],
    ['read', 'GET', '/messages'],
    ['read', 'GET', '/messages/msg_00000000001'],
    ['manage', 'DELETE', '/messages/msg_00000000001'],
    ['receive', 'POST', '/receive'],
    ['receive', 'POST', '/settle'],
  ]

  test('each action opens its calls and no others, on the queues named and no others', async () => {
    for (const action of ['send', 'receive', 'read', 'manage']) {
      const { key } = await newKey([{ actions: [action], queues: ['mine.*'] }])
      for (const [needed, method, path] of everything) {
        const call = (queue: string) => app.request(`/v1/queues/${queue}${path}`, { method, headers: bearer(key) })
        expect((await call('other')).status, `${action}: ${method} ${path} of another queue`).toBe(403)
        const { status } = await call('mine.absent')
        if (needed === action) expect(status, `${action}: ${method} ${path}`).not.toBe(403)
        else expect(status, `${action}: ${method} ${path}`).toBe(403)
      }
    }
  })

  test('a list shows only what may be read', async () => {
    for (const name of ['see.a', 'see.b', 'hide.c']) await asRoot(`/v1/queues/${name}`, { method: 'PUT' })
    const { key } = await newKey([{ actions: ['read'], queues: ['see.*'] }])
    const answer = await app.request('/v1/queues', { headers: bearer(key) })
    const { data } = (await answer.json()) as { data: { name: string }[] }
    expect(data.map(({ name }) => name)).toEqual(['see.a', 'see.b'])
    const blind = await newKey([{ actions: ['send'], queues: ['*'] }])
    expect((await app.request('/v1/queues', { headers: bearer(blind.key) })).status).toBe(403)
  })

  test('a lease is settled only by who may receive from its queue', async () => {
    await asRoot('/v1/queues/leased', { method: 'PUT' })
    await asRoot('/v1/queues/leased/messages/batch', { method: 'POST', json: { messages: [{ body: 'x' }] } })
    const received = await asRoot('/v1/queues/leased/receive', { method: 'POST' })
    const { messages } = (await received.json()) as { messages: { receipt: string }[] }
    const receipt = messages[0]?.receipt
    const ack = async (queues: string[], actions: string[]) => {
      const { key } = await newKey([{ actions, queues }])
      return (await app.request(`/v1/leases/${receipt}`, { method: 'DELETE', headers: bearer(key) })).status
    }
    expect(await ack(['other'], ['receive'])).toBe(403)
    expect(await ack(['leased'], ['send'])).toBe(403)
    expect(await ack(['leased'], ['receive'])).toBe(204)
  })

  test('dead letters do not lead into a queue that the key may not touch', async () => {
    await asRoot('/v1/queues/secret', { method: 'PUT' })
    const { key } = await newKey([{ actions: ['manage'], queues: ['mine'] }])
    const json = { dead_letter_queue: 'secret' }
    expect((await app.request('/v1/queues/mine', { method: 'PUT', headers: bearer(key), json })).status).toBe(403)
  })
})

describe('without any key needed', () => {
  let open: TestApp
  beforeAll(async () => {
    open = await testApp({ open: true, host: 'queue.local' })
  })
  afterAll(() => open.stop())
  const from = async (headers: Record<string, string>) => (await open.request('/v1/queues', { headers })).status

  test('loopback names are served, others are not', async () => {
    for (const host of ['localhost', 'LOCALHOST:7070', '127.0.0.1:1', '[::1]:7070', '[::1]', 'queue.local:7070']) {
      expect(await from({ host }), host).toBe(200)
    }
    for (const host of [
      'evil.example',
      'localhost.evil.example',
      '127.0.0.1.evil.example',
      '10.0.0.1',
      'x@localhost',
    ]) {
      expect(await from({ host }), host).toBe(403)
    }
  })

  test("another origin's page is refused, the own page is not", async () => {
    const host = 'localhost:7070'
    expect(await from({ host, origin: 'http://localhost:7070' })).toBe(200)
    for (const origin of ['http://localhost:3000', 'https://evil.example', 'null', '']) {
      expect(await from({ host, origin }), origin).toBe(403)
    }
    expect(await from({ host, 'sec-fetch-site': 'cross-site' })).toBe(403)
    expect(await from({ host, 'sec-fetch-site': 'same-origin' })).toBe(200)
  })

  test('no answer allows another origin anything', async () => {
    for (const method of ['GET', 'OPTIONS']) {
      const answer = await open.request('/v1/queues', {
        method,
        headers: { host: 'localhost', origin: 'http://localhost' },
      })
      expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([])
    }
  })

  test('a key that is sent must be valid', async () => {
    expect(await from({ host: 'localhost', ...bearer('nonsense') })).toBe(401)
  })
})
