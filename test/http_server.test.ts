/** The socket: what is broken, slow, oversized or gone is answered in form or dropped, and stopping loses no answer. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Listening } from '../src/http/index.ts'
import { type TestApp, testApp } from './support/app.ts'
import { waitFor } from './support/wait.ts'

const maxBodyBytes = 100_000
let app: TestApp
let server: Listening
/** Queues on which a receive has begun. */
const polled: string[] = []
beforeAll(async () => {
  app = await testApp({
    maxBodyBytes,
    broken: (broker) => ({
      receive: (queue, options) => {
        polled.push(queue)
        return broker.receive(queue, options)
      },
    }),
  })
  server = await app.listen({ timeouts: { headersMs: 300, requestMs: 600, checkMs: 50 } })
  await app.request('/v1/queues/q', { method: 'PUT' })
})
afterAll(() => app.stop())

const messages = '/v1/queues/q/messages'
const head = (line: string, ...headers: string[]) =>
  `${[`${line} HTTP/1.1`, 'Host: 127.0.0.1', ...headers].join('\r\n')}\r\n\r\n`

/** A connection, and all that comes back on it. */
async function open(port = server.port): Promise<{ socket: Socket; text(): string; ended: Promise<void> }> {
  const socket = connect(port, '127.0.0.1')
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1')
  })
  const ended = new Promise<void>((resolve) => socket.on('close', () => resolve()))
  await once(socket, 'connect')
  // A reset ends it as well as anything.
  socket.on('error', () => {})
  return { socket, text: () => text, ended }
}

/** Sends the parts and answers with all that comes back until the server closes. */
async function exchange(...parts: (string | Buffer)[]): Promise<string> {
  const { socket, text, ended } = await open()
  for (const part of parts) socket.write(part)
  await ended
  return text()
}

function expectProblem(answer: string, status: number, code: string): void {
  const [top = '', body = ''] = answer.split('\r\n\r\n')
  expect(top).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
  expect(top).toMatch(/\r\npostern-request-id: \S+/i)
  expect(top).toMatch(/\r\ncontent-type: application\/problem\+json/i)
  expect(JSON.parse(body)).toMatchObject({ status, code })
}

describe('requests that are none', () => {
  test('a malformed request line is 400', async () => {
    expectProblem(await exchange('GET\r\n\r\n'), 400, 'malformed_request')
    expectProblem(await exchange('\x16\x03\x01 TLS hello\r\n\r\n'), 400, 'malformed_request')
  })

  test('a malformed header is 400', async () => {
    expectProblem(await exchange(head('GET /healthz', 'No colon')), 400, 'malformed_request')
    expectProblem(
      await exchange(head('GET /healthz', 'Content-Length: 1', 'Content-Length: 2')),
      400,
      'malformed_request',
    )
  })

  test('64 KB of headers are 431', async () => {
    const answer = await exchange(head('GET /healthz', `X-Large: ${'x'.repeat(64 * 1024)}`))
    expectProblem(answer, 431, 'headers_too_large')
  })

  test('32 KB of headers are none too many', async () => {
    expect(await exchange(head('GET /healthz', `X-Large: ${'x'.repeat(32 * 1024)}`, 'Connection: close'))).toMatch(
      /^HTTP\/1.1 200/,
    )
  })

  test('a broken target or Host is 400', async () => {
    expectProblem(await exchange(head('GET *', 'Connection: close')), 400, 'malformed_request')
    expectProblem(
      await exchange('GET /healthz HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n'),
      400,
      'malformed_request',
    )
  })

  test('a missing Host is refused, and nothing worse', async () => {
    expectProblem(await exchange('GET /v1/queues HTTP/1.1\r\nConnection: close\r\n\r\n'), 403, 'forbidden')
  })

  test('each leaves a line in the log', async () => {
    const before = app.lines.length
    await exchange('nonsense\r\n\r\n')
    expect(app.lines.slice(before)).toEqual([expect.objectContaining({ status: 400, request_id: expect.any(String) })])
  })
})

describe('slow requests', () => {
  test('a head that drips is 408', async () => {
    expectProblem(await exchange('GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: '), 408, 'malformed_request')
  })

  test('a body that drips is 408', async () => {
    expectProblem(await exchange(head(`POST ${messages}`, 'Content-Length: 10'), 'x'), 408, 'malformed_request')
  })

  test('a long poll may last longer than a request', async () => {
    const { socket, text, ended } = await open()
    socket.write(head('POST /v1/queues/q/receive?wait=1s', 'Connection: close', 'Content-Length: 0'))
    await ended
    expect(text()).toMatch(/^HTTP\/1.1 200[\s\S]*{"messages":\[\]}$/)
  })
})

describe('paths as sent', () => {
  test('are not shortened or decoded on their way', async () => {
    const get = (path: string) => exchange(head(`GET ${path}`, 'Connection: close'))
    expectProblem(await get('/v1/queues/../healthz'), 404, 'not_found')
    expectProblem(await get('/v1/queues/..'), 422, 'invalid_value')
    expectProblem(await get('/v1/queues/%2e%2e'), 422, 'invalid_value')
    expectProblem(await get('/v1/queues/a%2Fmessages'), 422, 'invalid_value')
    expectProblem(await get('/v1/../healthz'), 404, 'not_found')
    expectProblem(await get('/v1/queues/"'), 422, 'invalid_value')
    expectProblem(await get('/v1/queues/a%'), 400, 'malformed_request')
    expectProblem(await get('/v1\\queues'), 400, 'malformed_request')
    expect(await get('http://127.0.0.1/healthz')).toMatch(/^HTTP\/1.1 200/)
  })
})

describe('large bodies', () => {
  const chunk = (size: number) => `${size.toString(16)}\r\n${'x'.repeat(size)}\r\n`

  test('an announced body over the limit is refused before it is read', async () => {
    const { socket, text, ended } = await open()
    socket.write(head(`POST ${messages}`, `Content-Length: ${maxBodyBytes + 1}`))
    await waitFor(() => expect(text()).toContain('body_too_large'))
    expect(text()).toMatch(/\r\nconnection: close/i)
    socket.write('x'.repeat(maxBodyBytes + 1))
    await ended
    expectProblem(text(), 413, 'body_too_large')
  })

  test('a body in chunks is read up to the limit, and the answer reaches a client that goes on sending', async () => {
    const { socket, text, ended } = await open()
    socket.write(head(`POST ${messages}`, 'Transfer-Encoding: chunked'))
    for (let sent = 0; sent < 40; sent++) socket.write(chunk(65_536))
    socket.write('0\r\n\r\n')
    await ended
    expectProblem(text(), 413, 'body_too_large')
  })

  test('a client that goes while it is refused harms nobody', async () => {
    const { socket, text, ended } = await open()
    socket.write(head(`POST ${messages}`, `Content-Length: ${maxBodyBytes + 1}`))
    await waitFor(() => expect(text()).toContain('body_too_large'))
    socket.destroy()
    await ended
    expect(await exchange(head('GET /healthz', 'Connection: close'))).toMatch(/^HTTP\/1.1 200/)
  })

  test('a client that never stops sending is cut off', async () => {
    const { socket, text, ended } = await open()
    socket.write(head(`POST ${messages}`, 'Transfer-Encoding: chunked'), () => {})
    const more = () => socket.write(chunk(1000), (error) => !error && setImmediate(more))
    more()
    await ended
    expectProblem(text(), 413, 'body_too_large')
  }, 10_000)

  test('exactly the limit passes, in chunks or not', async () => {
    const plain = await exchange(
      head(`POST ${messages}`, `Content-Length: ${maxBodyBytes}`, 'Connection: close'),
      'x'.repeat(maxBodyBytes),
    )
    expect(plain).toMatch(/^HTTP\/1.1 201/)
    const chunked = await exchange(
      head(`POST ${messages}`, 'Transfer-Encoding: chunked', 'Connection: close'),
      chunk(maxBodyBytes),
      '0\r\n\r\n',
    )
    expect(chunked).toMatch(/^HTTP\/1.1 201/)
  })

  test('who asks before sending is told to go on only when the body is wanted', async () => {
    const ask = (length: number, ...more: string[]) =>
      head(`POST ${messages}`, 'Expect: 100-continue', `Content-Length: ${length}`, ...more)
    expectProblem(await exchange(ask(maxBodyBytes + 1)), 413, 'body_too_large')
    const unknown = head('POST /v1/queues/absent!/messages', 'Expect: 100-continue', 'Content-Length: 5')
    expectProblem(await exchange(unknown), 422, 'invalid_value')
    const { socket, text, ended } = await open()
    socket.write(ask(5, 'Connection: close'))
    await waitFor(() => expect(text()).toMatch(/^HTTP\/1.1 100/))
    socket.write('hello')
    await ended
    expect(text()).toContain('HTTP/1.1 201')
  })

  test('a refused request does not spoil the next on the same connection', async () => {
    const refused = head('POST /v1/queues/q!/messages', 'Content-Length: 50000')
    const answer = await exchange(refused, 'x'.repeat(50_000), head('GET /healthz', 'Connection: close'))
    expect(answer).toMatch(/^HTTP\/1.1 422[\s\S]*HTTP\/1.1 200/)
  })

  test('a client that goes in the middle of its body is logged as gone, and nothing is stored', async () => {
    const seen = app.lines.length
    const { socket } = await open()
    socket.write(head(`POST ${messages}`, 'Content-Length: 100', 'Postern-Request-Id: half'))
    socket.write('only this')
    await waitFor(async () => {
      // Answered after the server has taken in what was written before.
      expect((await exchange(head('GET /healthz', 'Connection: close'))).length).toBeGreaterThan(0)
    })
    socket.destroy()
    await waitFor(() =>
      expect(app.lines.slice(seen)).toContainEqual(expect.objectContaining({ request_id: 'half', aborted: true })),
    )
  })
})

describe('stopping', () => {
  const poll = async (port: number, queue: string) => {
    await app.request(`/v1/queues/${queue}`, { method: 'PUT' })
    const connection = await open(port)
    connection.socket.write(head(`POST /v1/queues/${queue}/receive?wait=50s`, 'Content-Length: 0'))
    await waitFor(() => expect(polled).toContain(queue))
    return connection
  }

  test('waits for what is under way, closes what is idle, and takes nothing new', async () => {
    const own = await app.listen()
    const idle = await open(own.port)
    idle.socket.write(head('GET /healthz'))
    await waitFor(() => expect(idle.text()).toContain('"ok"'))
    const polling = await poll(own.port, 'slow')
    let stopped = false
    const stop = own.stop().then(() => {
      stopped = true
    })
    await idle.ended
    await expect(open(own.port)).rejects.toThrow(/ECONNREFUSED/)
    expect(stopped).toBe(false)
    await app.send('slow', 'at last')
    await Promise.all([stop, polling.ended])
    expect(polling.text()).toMatch(/^HTTP\/1.1 200[\s\S]*connection: close[\s\S]*at last/i)
  })

  test('by force breaks off whatever is open', async () => {
    const own = await app.listen()
    const polling = await poll(own.port, 'stuck')
    await own.close()
    await polling.ended
    expect(polling.text()).toBe('')
  })

  test('a port that is taken is an error, not a crash', async () => {
    await expect(app.listen({ port: server.port })).rejects.toThrow(/EADDRINUSE/)
  })
})

describe('connections beyond their number', () => {
  test('are answered with 503 before they ask, and closed; one that is free again is served', async () => {
    const small = await app.listen({ maxConnections: 2 })
    const [one, two] = [await open(small.port), await open(small.port)]
    const health = head('GET /healthz')
    for (const { socket, text } of [one, two]) {
      socket.write(health)
      await waitFor(() => expect(text()).toMatch(/^HTTP\/1.1 200/))
    }
    const seen = app.lines.length
    const silent = await open(small.port)
    await silent.ended
    expect(silent.text()).toMatch(
      /^HTTP\/1.1 503 [\s\S]*Retry-After: 1[\s\S]*Connection: close[\s\S]*"code":"unavailable"/,
    )
    const asking = await open(small.port)
    asking.socket.write(health)
    await asking.ended
    expect(asking.text()).toMatch(/^HTTP\/1.1 503 /)
    expect(asking.text()).not.toMatch(/HTTP\/1.1 200/)
    expect(app.lines.slice(seen).map(({ status }) => status)).toEqual([503, 503])
    one.socket.destroy()
    await waitFor(async () => {
      const next = await open(small.port)
      next.socket.write(health)
      await waitFor(() => expect(next.text()).toMatch(/^HTTP/))
      next.socket.destroy()
      expect(next.text()).toMatch(/^HTTP\/1.1 200/)
    })
    two.socket.destroy()
  })
})
