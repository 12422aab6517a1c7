/** Limits at the edge: requests of a key and of all, bytes of bodies in flight, receives that wait. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { type HttpDeps, networkOf } from '../src/http/index.ts'
import { invalidField, refusal, rootKey, type TestApp, testApp } from './support/app.ts'
import { brokerOn, message } from './support/broker.ts'
import { testDatabase } from './support/postgres.ts'
import { waitFor } from './support/wait.ts'

const apps: TestApp[] = []
afterEach(async () => {
  for (const app of apps.splice(0)) await app.stop()
})
async function start(options: Parameters<typeof testApp>[0]): Promise<TestApp> {
  const app = await testApp(options)
  apps.push(app)
  return app
}

const bearer = (key: string) => ({ authorization: `Bearer ${key}` })
const hour = (count: number) => ({ count, perMs: 3_600_000 })

describe('request rates', () => {
  const keyed = (options: Partial<HttpDeps>) => start({ rootKey, open: false, ...options })
  async function newKey(app: TestApp, more: object = {}): Promise<string> {
    const json = { name: 'k', scopes: [{ actions: ['send', 'read'], queues: ['*'] }], ...more }
    const answer = await app.request('/v1/keys', { method: 'POST', headers: bearer(rootKey), json })
    expect(answer.status).toBe(201)
    return ((await answer.json()) as { key: string }).key
  }
  const list = (app: TestApp, key: string) => app.request('/v1/queues', { headers: bearer(key) })

  test('a key that sends too much is 429 with the time to come back; the others are served', async () => {
    const app = await keyed({ rateLimitPerKey: hour(1) })
    const [one, other] = [await newKey(app), await newKey(app)]
    const first = await list(app, one)
    expect(first.status).toBe(200)
    expect(first.headers.get('ratelimit-policy')).toBe('"key";q=1;w=3600')
    expect(first.headers.get('ratelimit')).toBe('"key";r=0;t=3600')
    const second = await list(app, one)
    expect(second.headers.get('retry-after')).toBe('3600')
    expect(second.headers.get('ratelimit')).toBe('"key";r=0;t=3600')
    expect(await refusal(second)).toMatchObject({ status: 429, code: 'rate_limited' })
    expect((await list(app, other)).status).toBe(200)
    for (let n = 0; n < 3; n++) expect((await list(app, rootKey)).status).toBe(200)
    expect((await list(app, rootKey)).headers.get('ratelimit')).toBeNull()
  })

  test('a key may have a rate of its own, which is shown', async () => {
    const app = await keyed({ rateLimitPerKey: hour(1) })
    const key = await newKey(app, { rate_limit: '3/s' })
    const answer = await list(app, key)
    expect(answer.headers.get('ratelimit-policy')).toBe('"key";q=3;w=1')
    expect(answer.headers.get('ratelimit')).toBe('"key";r=2;t=1')
    expect((await list(app, key)).status).toBe(200)
    const shown = await app.request('/v1/keys', { headers: bearer(rootKey) })
    expect(await shown.json()).toMatchObject({ data: [{ rate_limit: '3/s' }] })
  })

  test.each(['0/s', 'many', '1000000/s', 5])('rate_limit %j is refused by name', async (rate_limit) => {
    const app = await keyed({})
    const json = { name: 'k', scopes: [{ actions: ['send'], queues: ['*'] }], rate_limit }
    const answer = await app.request('/v1/keys', { method: 'POST', headers: bearer(rootKey), json })
    expect(await refusal(answer)).toEqual(invalidField('/rate_limit'))
  })

  test('the gateway has one of its own, over all keys, and a key that exceeds its own takes nothing from it', async () => {
    const app = await keyed({ rateLimit: { count: 6, perMs: 1000 } })
    // Two are spent on making keys.
    const slow = await newKey(app, { rate_limit: '1/h' })
    const key = await newKey(app)
    const both = await list(app, slow)
    expect(both.headers.get('ratelimit-policy')).toBe('"key";q=1;w=3600, "gateway";q=6;w=1')
    for (let n = 0; n < 20; n++) expect((await list(app, slow)).status).toBe(429)
    const answers = []
    for (let n = 0; n < 20; n++) answers.push(await list(app, key))
    expect(answers[0]?.status).toBe(200)
    const refused = answers.find((answer) => answer.status === 429)
    expect(refused?.headers.get('ratelimit')).toBe('"gateway";r=0;t=1')
    expect(refused && (await refusal(refused))).toMatchObject({ code: 'rate_limited' })
  })

  test('without keys only the rate of the gateway holds; probes are always answered', async () => {
    const app = await start({ rateLimit: hour(1), rateLimitPerKey: hour(1) })
    expect((await app.request('/v1/queues')).headers.get('ratelimit-policy')).toBe('"gateway";q=1;w=3600')
    expect((await app.request('/v1/queues')).status).toBe(429)
    for (const path of ['/healthz', '/readyz']) {
      for (let n = 0; n < 3; n++) {
        const answer = await app.request(path)
        expect([answer.status, answer.headers.get('ratelimit')]).toEqual([200, null])
      }
    }
  })

  test('a batch is one request', async () => {
    const app = await start({ rateLimit: { count: 3, perMs: 1000 } })
    await app.request('/v1/queues/q', { method: 'PUT' })
    expect(await app.send('q', ...Array.from({ length: 100 }, (_, n) => `${n}`))).toHaveLength(100)
  })
})

describe('requests without a valid key', () => {
  const unknown = (n: number) => `postern_${String(n).padStart(16, '0')}_${'x'.repeat(43)}`
  /** And how often a key that was not valid lately was looked up. */
  async function guarded(rateLimitRefused: HttpDeps['rateLimitRefused']) {
    const looks: string[] = []
    const app = await start({
      ...{ rootKey, open: false, rateLimitRefused },
      broken: (broker) => ({
        authenticate: (secret, guessing) =>
          broker.authenticate(secret, () => {
            guessing?.()
            looks.push(secret)
          }),
      }),
    })
    const keyOf = async () => {
      const json = { name: 'k', scopes: [{ actions: ['read'], queues: ['*'] }] }
      const answer = await app.request('/v1/keys', { method: 'POST', headers: bearer(rootKey), json })
      return ((await answer.json()) as { key: string }).key
    }
    const list = async (headers: Record<string, string>) => app.request('/v1/queues', { headers })
    return { app, looks, keyOf, list }
  }

  test('beyond their rate are 429 before anything is looked up; a key that has been valid goes on, and so does the root key', async () => {
    const { looks, keyOf, list } = await guarded(hour(1))
    const key = await keyOf()
    const first = await list(bearer(key))
    expect([first.status, first.headers.get('ratelimit')]).toEqual([200, null])
    const refused = await list(bearer(unknown(0)))
    expect(refused.headers.get('ratelimit')).toBe('"refused";r=0;t=3600')
    expect(await refusal(refused)).toMatchObject({ status: 401 })
    for (let n = 1; n < 20; n++) await list(bearer(unknown(n)))
    expect(looks).toEqual([key, unknown(0)])
    for (const headers of [{}, { authorization: 'Basic x' }, bearer('short'), bearer(unknown(99))]) {
      const answer = await list(headers)
      expect(answer.headers.get('retry-after')).toBe('3600')
      expect(await refusal(answer)).toMatchObject({ status: 429, code: 'rate_limited' })
    }
    expect((await list(bearer(key))).status).toBe(200)
    expect((await list(bearer(rootKey))).status).toBe(200)
  })

  test('a key that is valid costs nothing, however new; without a limit none is refused', async () => {
    const { keyOf, list, app } = await guarded(hour(1))
    for (let n = 0; n < 5; n++) expect((await list(bearer(await keyOf()))).status).toBe(200)
    expect((await list({})).status).toBe(401)
    expect((await list({})).status).toBe(429)
    expect((await app.request('/healthz')).status).toBe(200)
    const free = await guarded(null)
    for (let n = 0; n < 5; n++) expect((await free.list({})).status).toBe(401)
  })

  test('a key that was revoked is one of them', async () => {
    const { keyOf, list, app } = await guarded(hour(1))
    const key = await keyOf()
    expect((await list(bearer(key))).status).toBe(200)
    await app.request(`/v1/keys/${key.split('_')[1]}`, { method: 'DELETE', headers: bearer(rootKey) })
    expect((await list(bearer(key))).status).toBe(401)
    expect((await list(bearer(key))).status).toBe(429)
  })

  test('are counted by address', () => {
    expect(['10.0.0.1', '::ffff:10.0.0.1'].map(networkOf)).toEqual(['10.0.0.1', '::ffff:10.0.0.1'])
    expect(['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::9', 'fe80::1%eth0', '::1', '2001:db8::'].map(networkOf)).toEqual([
      ...['2001:db8:1:2', '2001:db8:1:2', 'fe80:0:0:0', '0:0:0:0', '2001:db8:0:0'],
    ])
  })
})

describe('answers that are not read', () => {
  test('keep others from asking for more, until they are read or their client has gone; sending and settling go on', async () => {
    const app = await start({ maxAnswersInFlightBytes: 1024 * 1024 })
    await app.request('/v1/queues/q', { method: 'PUT' })
    for (let n = 0; n < 12; n++)
      await app.request('/v1/queues/q/messages', { method: 'POST', body: 'x'.repeat(1_000_000) })
    const { port } = await app.listen()
    const lazy = connect(port, '127.0.0.1').pause()
    await once(lazy, 'connect')
    lazy.write('GET /v1/queues/q/messages HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
    const browse = () => app.request('/v1/queues/q/messages?limit=1')
    await waitFor(async () => expect((await browse()).status).toBe(503))
    const receive = await app.request('/v1/queues/q/receive', { method: 'POST' })
    expect(receive.headers.get('retry-after')).toBe('1')
    expect(await refusal(receive)).toMatchObject({ status: 503, code: 'unavailable' })
    expect((await app.request('/v1/queues/q/messages', { method: 'POST', body: 'y' })).status).toBe(201)
    const settled = await app.request('/v1/queues/q/settle?receive=1', { method: 'POST', json: { ack: ['none'] } })
    expect(await settled.json()).toMatchObject({ results: [{ outcome: 'invalid_receipt' }], messages: [] })
    lazy.destroy()
    await waitFor(async () => expect((await browse()).status).toBe(200))
    expect(await app.receive('q')).toHaveLength(1)
  })

  test('many that are asked for at once: what is there when too much lies unread is given back, and not counted', async () => {
    const told: (() => void)[] = []
    const app = await start({
      maxAnswersInFlightBytes: 1024 * 1024,
      broken: (broker) => ({
        receive: async (...call) => {
          const received = await broker.receive(...call)
          await new Promise<void>((resolve) => void told.push(resolve))
          return received
        },
      }),
    })
    await app.request('/v1/queues/q', { method: 'PUT' })
    for (let n = 0; n < 20; n++)
      await app.request('/v1/queues/q/messages', { method: 'POST', body: 'x'.repeat(1_000_000) })
    const { port } = await app.listen()
    const clients = [0, 1].map(() => connect(port, '127.0.0.1').pause())
    for (const client of clients) {
      await once(client, 'connect')
      client.write('POST /v1/queues/q/receive?max=10 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
    }
    await waitFor(() => expect(told).toHaveLength(2))
    const seen = app.lines.length
    for (const tell of told) tell()
    await waitFor(() => expect(app.lines).toHaveLength(seen + 2))
    expect(app.lines.slice(seen).map(({ status }) => status)).toEqual([200, 503])
    await waitFor(async () => {
      const page = await app.broker.admin.browseMessages('q', 'ready', { limit: 20, cursor: null })
      expect(page.data.map(({ attempts }) => attempts)).toEqual(Array.from({ length: 10 }, () => 0))
    })
    for (const client of clients) client.destroy()
  })
})

describe('bodies in flight', () => {
  const messages = '/v1/queues/q/messages'
  const head = (...headers: string[]) =>
    `${[`POST ${messages} HTTP/1.1`, 'Host: 127.0.0.1', ...headers].join('\r\n')}\r\n\r\n`

  /** An app that takes `maxBodiesInFlightBytes`, and a broker that stores when it is told. */
  async function slowApp(maxBodiesInFlightBytes: number) {
    let goOn: (() => void) | undefined
    const told = new Promise<void>((resolve) => {
      goOn = resolve
    })
    let storing = 0
    const app = await start({
      maxBodiesInFlightBytes,
      broken: (broker) => ({
        send: async (...call) => {
          storing++
          if (call[1].some(({ body }) => body.toString().startsWith('slow'))) await told
          return await broker.send(...call)
        },
      }),
    })
    await app.request('/v1/queues/q', { method: 'PUT' })
    const { port } = await app.listen()
    return { app, port, goOn: () => goOn?.(), storing: () => storing }
  }

  async function open(port: number) {
    const socket = connect(port, '127.0.0.1')
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
    })
    await once(socket, 'connect')
    return { socket, text: () => text }
  }

  test('one that does not fit beside the others is 503 before it is read, on a connection that goes on', async () => {
    const { app, port, goOn, storing } = await slowApp(1000)
    const first = await open(port)
    first.socket.write(`${head('Content-Length: 600')}slow${'x'.repeat(596)}`)
    await waitFor(() => expect(storing()).toBe(1))
    const second = await open(port)
    second.socket.write(head('Content-Length: 500'))
    await waitFor(() => expect(second.text()).toMatch(/^HTTP\/1.1 503[\s\S]*retry-after: 1[\s\S]*"unavailable"/i))
    second.socket.write(`${'y'.repeat(500)}${head('Content-Length: 400')}${'z'.repeat(400)}`)
    await waitFor(() => expect(second.text()).toMatch(/HTTP\/1.1 503[\s\S]*HTTP\/1.1 201/))
    goOn()
    await waitFor(() => expect(first.text()).toMatch(/^HTTP\/1.1 201/))
    const third = await app.request(messages, { method: 'POST', body: 'x'.repeat(900) })
    expect(third.status).toBe(201)
    for (const { socket } of [first, second]) socket.destroy()
  })

  test('a body in chunks is counted as it comes', async () => {
    const { port, goOn, storing } = await slowApp(1000)
    const first = await open(port)
    first.socket.write(`${head('Content-Length: 600')}slow${'x'.repeat(596)}`)
    await waitFor(() => expect(storing()).toBe(1))
    const second = await open(port)
    const chunk = `12c\r\n${'c'.repeat(300)}\r\n`
    second.socket.write(`${head('Transfer-Encoding: chunked')}${chunk}${chunk}${chunk}0\r\n\r\n`)
    await waitFor(() => expect(second.text()).toMatch(/^HTTP\/1.1 503[\s\S]*"unavailable"/))
    goOn()
    await waitFor(() => expect(first.text()).toMatch(/^HTTP\/1.1 201/))
    second.socket.write(`${head('Transfer-Encoding: chunked')}${chunk}${chunk}${chunk}0\r\n\r\n`)
    await waitFor(() => expect(second.text()).toMatch(/HTTP\/1.1 503[\s\S]*HTTP\/1.1 201/))
    for (const { socket } of [first, second]) socket.destroy()
  })

  test('one that is alone fits, however large; what was refused or broken off takes no place', async () => {
    const { app, port } = await slowApp(1000)
    const send = (bytes: number) => app.request(messages, { method: 'POST', body: 'x'.repeat(bytes) })
    expect((await send(5000)).status).toBe(201)
    const seen = app.lines.length
    const gone = await open(port)
    gone.socket.write(head('Content-Length: 5000', 'Expect: 100-continue'))
    await waitFor(() => expect(gone.text()).toMatch(/^HTTP\/1.1 100/))
    expect((await send(10)).status).toBe(503)
    gone.socket.write('half')
    gone.socket.destroy()
    await waitFor(() => expect(app.lines.slice(seen)).toContainEqual(expect.objectContaining({ aborted: true })))
    expect((await send(2_000_000)).status).toBe(413)
    expect((await send(5000)).status).toBe(201)
  })
})

describe('a JSON body with far too many members', () => {
  const many = (count: number, member: (n: number) => string) =>
    Array.from({ length: count }, (_, n) => member(n)).join(',')
  const wrong = many(50_000, (n) => `"a${n}":1`)
  test.each([
    ['POST', '/v1/queues/q/settle', `{"ack":[${many(50_000, () => '1')}]}`, '/ack'],
    ['POST', '/v1/queues/q/settle', `{${wrong}}`, ''],
    ['PATCH', '/v1/queues/q/messages/msg_1', `{"headers":{${many(9_000, (n) => `"a${n}":1`)}}}`, '/headers'],
    ['PATCH', '/v1/queues/q/messages/msg_1', `{"headers":{${wrong}}}`, '/headers'],
    ['POST', '/v1/queues/q/messages/batch', `{"messages":[{"body":[1],${wrong}}]}`, '/messages/0'],
    [
      'POST',
      '/v1/queues/q/messages/batch?atomic=true',
      `{"messages":[{"body":1,"headers":{${wrong}}}]}`,
      '/messages/0/headers',
    ],
    ['POST', '/v1/queues/q/redrive', `{"filter":{"key":[${many(50_000, () => '1')}]}}`, '/filter/key'],
  ])('%s %s is refused with one error that names where they are', async (method, path, body, pointer) => {
    const app = await start({})
    await app.request('/v1/queues/q', { method: 'PUT' })
    const answer = await app.request(path, { method, body, headers: { 'content-type': 'application/json' } })
    expect(await refusal(answer)).toEqual(invalidField(pointer))
  })

  test('is stored when it is a message’s own', async () => {
    const app = await start({})
    await app.request('/v1/queues/q', { method: 'PUT' })
    const messages = [{ body: Array.from({ length: 50_000 }, (_, n) => n) }]
    const answer = await app.request('/v1/queues/q/messages/batch', { method: 'POST', json: { messages } })
    expect(await answer.json()).toMatchObject({ results: [{ id: expect.any(String) }] })
  })

  test('in one message of a batch, what is wrong is told for the first ten', async () => {
    const app = await start({})
    await app.request('/v1/queues/q', { method: 'PUT' })
    const message = Object.fromEntries(Array.from({ length: 9_000 }, (_, n) => [`a${n}`, 1]))
    const answer = await app.request('/v1/queues/q/messages/batch', { method: 'POST', json: { messages: [message] } })
    const { results } = (await answer.json()) as { results: { error: { detail: string } }[] }
    expect(results[0]?.error.detail).toMatch(/is not known here \(and 8990 more\)$/)
  })
})

test('more receives than may wait are 503; a place that is left is free', async () => {
  const database = await testDatabase()
  const broker = brokerOn(database.url, 6, { maxWaiting: 2 })
  await broker.start()
  await broker.admin.putQueue('q', {})
  const leave = new AbortController()
  const wait = (signal = leave.signal) => broker.receive('q', { max: 1, waitMs: 50_000, leaseMs: null, signal })
  const parked = [wait(), wait()]
  await waitFor(() => expect(wait(AbortSignal.timeout(10))).rejects.toMatchObject({ code: 'unavailable' }))
  leave.abort()
  expect((await Promise.all(parked)).map(({ messages }) => messages)).toEqual([[], []])
  await broker.send('q', [message('now')])
  const { messages } = await wait(new AbortController().signal)
  expect(messages).toHaveLength(1)
  await broker.stop(1000)
  await database.drop()
})
