/** Receiving over HTTP: what a delivery shows, how long it waits, and that a client that has gone costs nothing. */
import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'
import { waitFor } from './support/wait.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp()
})
afterAll(() => app.stop())

let count = 0
async function newQueue(...bodies: string[]): Promise<string> {
  const name = `receive${count++}`
  await app.request(`/v1/queues/${name}`, { method: 'PUT' })
  if (bodies.length > 0) await app.send(name, ...bodies)
  return name
}
const receive = (queue: string, query = '', init: RequestInit = {}) =>
  app.request(`/v1/queues/${queue}/receive${query}`, { method: 'POST', ...init })

describe('POST /v1/queues/{queue}/receive', () => {
  test('a delivery shows exactly these fields', async () => {
    const queue = await newQueue('hello')
    const [delivery] = await app.receive(queue)
    expect(delivery).toEqual({
      id: expect.stringMatching(/^msg_/),
      receipt: expect.any(String),
      body: 'hello',
      content_type: 'text/plain; charset=utf-8',
      headers: {},
      key: null,
      priority: 5,
      attempt: 1,
      enqueued_at: expect.any(String),
      lease_expires_at: expect.any(String),
    })
  })

  test('one message without max, up to max with it, none when there is none', async () => {
    const queue = await newQueue('a', 'b', 'c')
    expect(await app.receive(queue)).toHaveLength(1)
    expect(await app.receive(queue, '?max=1000')).toHaveLength(2)
    expect(await app.receive(queue, '?max=1000')).toEqual([])
  })

  test('the lease lasts as long as asked', async () => {
    const queue = await newQueue('a')
    const [delivery] = await app.receive(queue, '?lease=12h')
    const lasts = Date.parse(String(delivery?.lease_expires_at)) - Date.now()
    expect(lasts).toBeGreaterThan(11.9 * 3_600_000)
  })

  test('a long poll answers at the first message', async () => {
    const queue = await newQueue()
    const waiting = app.receive(queue, '?wait=55s&max=10')
    await app.send(queue, 'late')
    expect(await waiting).toMatchObject([{ body: 'late' }])
  })

  test('a body is refused, unless it is empty', async () => {
    const queue = await newQueue('a')
    const typed = { headers: { 'content-type': 'text/plain' } }
    expect(await refusal(await receive(queue, '', { body: '{"max":2}', ...typed }))).toEqual(invalidField(''))
    expect((await receive(queue, '', { body: '{}', ...typed })).status).toBe(200)
  })

  test.each([
    ['max=0', 'query/max'],
    ['max=1001', 'query/max'],
    ['max=abc', 'query/max'],
    ['wait=56s', 'query/wait'],
    ['wait=-1', 'query/wait'],
    ['wait=abc', 'query/wait'],
    ['wait=2d', 'query/wait'],
    ['lease=0', 'query/lease'],
    ['lease=13h', 'query/lease'],
    ['raw=maybe', 'query/raw'],
    ['raw=true&max=2', 'query/max'],
    ['wait=1&wait=1', 'query/wait'],
    ['limit=1', 'query/limit'],
  ])('?%s is refused by name', async (query, pointer) => {
    expect(await refusal(await receive(await newQueue(), `?${query}`))).toEqual(invalidField(pointer))
  })
})

describe('raw', () => {
  test('is the message itself, the rest in headers', async () => {
    const queue = await newQueue()
    await app.request(`/v1/queues/${queue}/messages`, {
      method: 'POST',
      body: Buffer.from([0, 255]),
      headers: { 'content-type': 'image/x', 'Postern-Header-Tenant': Buffer.from('grün').toString('latin1') },
    })
    const answer = await receive(queue, '?raw=true')
    expect(Buffer.from(await answer.arrayBuffer())).toEqual(Buffer.from([0, 255]))
    expect(answer.headers.get('content-type')).toBe('image/x')
    expect(answer.headers.get('postern-message-id')).toMatch(/^msg_/)
    expect(answer.headers.get('postern-attempt')).toBe('1')
    expect(Buffer.from(answer.headers.get('postern-header-tenant') ?? '', 'latin1').toString()).toBe('grün')
    const receipt = answer.headers.get('postern-receipt')
    expect((await app.request(`/v1/leases/${receipt}`, { method: 'DELETE' })).status).toBe(204)
  })

  test('is 204 when there is nothing', async () => {
    const answer = await receive(await newQueue(), '?raw')
    expect([answer.status, await answer.text()]).toEqual([204, ''])
  })
})

describe('a client that has gone', () => {
  test('while it polls leaves no lease and no attempt behind', async () => {
    const queue = await newQueue()
    const { port, close } = await app.listen()
    const seen = app.lines.length
    const poll = httpRequest({ port, host: '127.0.0.1', method: 'POST', path: `/v1/queues/${queue}/receive?wait=50s` })
    poll.on('error', () => {})
    poll.end()
    const socket = (await once(poll, 'socket'))[0]
    if (socket.connecting) await once(socket, 'connect')
    // A second call on the same queue has been answered only after the first was read.
    await app.receive(queue)
    poll.destroy()
    await waitFor(() => expect(app.lines.slice(seen)).toContainEqual(expect.objectContaining({ aborted: true })))
    await app.send(queue, 'for somebody else')
    expect(await app.receive(queue, '?wait=10s')).toMatchObject([{ body: 'for somebody else', attempt: 1 }])
    await close()
  })

  test('between the lease and the answer has its messages given back, uncounted', async () => {
    let leased: (() => void) | undefined
    const isLeased = new Promise<void>((resolve) => {
      leased = resolve
    })
    const slow = await testApp({
      broken: (broker) => ({
        receive: async (queue, options) => {
          const received = await broker.receive(queue, options)
          if (options.max === 7) {
            leased?.()
            await once(options.signal, 'abort')
          }
          return received
        },
      }),
    })
    await slow.request('/v1/queues/q', { method: 'PUT' })
    await slow.send('q', 'x')
    const { port } = await slow.listen()
    const call = httpRequest({ port, host: '127.0.0.1', method: 'POST', path: '/v1/queues/q/receive?max=7' })
    call.on('error', () => {})
    call.end()
    await isLeased
    call.destroy()
    const gone = expect.objectContaining({ route: '/v1/queues/{queue}/receive', aborted: true })
    await waitFor(() => expect(slow.lines).toContainEqual(gone))
    expect(await slow.receive('q', '?wait=10s')).toMatchObject([{ body: 'x', attempt: 1 }])
    await slow.stop()
  })
})
