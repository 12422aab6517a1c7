import type { LookupFunction, Socket } from 'node:net'
import { describe, expect, test } from 'vitest'

import {
  answered,
  closed,
  failed,
  httpServer,
  local,
  opened,
  post,
  rawServer,
  saying,
  sender,
  text,
} from './support/endpoints.ts'

describe('an answer', () => {
  test('is status, headers and body; the request arrives as it was given', async () => {
    const arrived: unknown[] = []
    const { port } = await httpServer(async (request, response) => {
      arrived.push(request.method, request.url, request.headers, await text(request))
      response.writeHead(202, { 'X-Answer': ['a', 'b'] }).end('fine')
    })
    const result = await post(sender(), `${local(port)}hooks/a%20b?x=1&y=%2F#part`, {
      headers: { 'x-name': Buffer.from('Grüße').toString('latin1'), 'content-type': 'text/plain' },
    })
    expect(result).toMatchObject({ outcome: answered(202), responseHeaders: { 'x-answer': 'a, b' } })
    expect(result.responseBody.toString()).toBe('fine')
    expect(result.durationMs).toBeGreaterThan(0)
    const headers = {
      'content-length': '7',
      'content-type': 'text/plain',
      'x-name': Buffer.from('Grüße').toString('latin1'),
    }
    expect(arrived).toEqual(['POST', '/hooks/a%20b?x=1&y=%2F', expect.objectContaining(headers), '{"a":1}'])
  })

  test.each([204, 304, 400, 404, 410, 500, 599])('of %i is an answer like any other', async (status) => {
    const { port } = await httpServer((_request, response) => response.writeHead(status).end())
    expect((await post(sender(), local(port))).outcome).toEqual(answered(status))
  })

  test('brings its Retry-After as it is', async () => {
    const { port } = await httpServer((_request, response) => response.writeHead(503, { 'retry-after': '120' }).end())
    expect((await post(sender(), local(port))).outcome).toEqual(answered(503, '120'))
  })

  test.each([301, 302, 303, 307, 308])('of %i is not followed', async (status) => {
    let requests = 0
    const { port } = await httpServer((_request, response) => {
      requests++
      response.writeHead(status, { location: '/elsewhere' }).end()
    })
    const result = await post(sender(), local(port))
    expect(result).toMatchObject({ outcome: answered(status), responseHeaders: { location: '/elsewhere' } })
    expect(requests).toBe(1)
  })

  test('an empty body is sent with its length', async () => {
    const { port } = await httpServer((request, response) => {
      response.end(request.headers['content-length'])
    })
    const { responseBody } = await post(sender(), local(port), { body: Buffer.alloc(0) })
    expect(responseBody.toString()).toBe('0')
  })

  test.each([
    ['100 Continue', 'HTTP/1.1 100 Continue\r\n\r\n'],
    ['102 Processing, twice', 'HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n'],
    ['103 Early Hints', 'HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n'],
  ])('after %s counts, not the interim one', async (_name, interim) => {
    for (const parts of [
      [interim, 'HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok'],
      [`${interim}HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok`],
    ]) {
      const { port } = await saying(...parts)
      const result = await post(sender(), local(port))
      expect(result.outcome).toEqual(answered(201))
      expect(result.responseHeaders).not.toHaveProperty('link')
      expect(result.responseBody.toString()).toBe('ok')
    }
  })

  test('a header called __proto__, given twice, is one like any other', async () => {
    const { port } = await saying('HTTP/1.1 200 OK\r\n__proto__: a\r\n__proto__: b\r\ncontent-length: 0\r\n\r\n')
    const { responseHeaders } = await post(sender(), local(port))
    expect(Object.entries(responseHeaders)).toContainEqual(['__proto__', 'a, b'])
  })
})

describe('the body of an answer', () => {
  const head = 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n'
  const chunked = (part: Buffer): Buffer =>
    Buffer.concat([Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from('\r\n')])

  test.each([
    [0, 0],
    [16_383, 16_383],
    [16_384, 16_384],
    [16_385, 16_384],
    [100_000, 16_384],
  ])('of %i bytes is kept up to %i', async (given, kept) => {
    const body = Buffer.alloc(given, 'abcdefg')
    const { port } = await httpServer((_request, response) => response.end(body))
    const result = await post(sender(), local(port))
    expect(result.outcome).toEqual(answered(200))
    expect(result.responseBody.equals(body.subarray(0, kept))).toBe(true)
  })

  test('without end is cut; the endpoint has succeeded', async () => {
    const piece = chunked(Buffer.alloc(64 * 1024, 'x'))
    let written = 0
    const { port, sockets } = await rawServer((socket) => {
      const flood = (): void => {
        while (!socket.destroyed && written < 2 ** 30) {
          written += piece.length
          if (!socket.write(piece)) return void socket.once('drain', flood)
        }
      }
      socket.once('data', () => {
        socket.write(head)
        flood()
      })
    })
    const before = process.memoryUsage().arrayBuffers
    const result = await post(sender(), local(port))
    expect(result.outcome).toEqual(answered(200))
    expect(result.responseBody).toHaveLength(16_384)
    const [socket] = sockets
    await closed(socket)
    expect(written).toBeLessThan(64 * 2 ** 20)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 2 ** 20)
  })

  test('that trickles is cut at the deadline; the endpoint has succeeded', async () => {
    const { port, sockets } = await rawServer((socket) => {
      socket.once('data', () => {
        socket.write(head)
        const drip = setInterval(() => socket.write(chunked(Buffer.from('x'))), 5)
        socket.once('close', () => clearInterval(drip))
      })
    })
    const result = await post(sender(), local(port), { timeoutMs: 200 })
    expect(result.outcome).toEqual(answered(200))
    expect(result.responseBody.toString()).toMatch(/^x+$/)
    const [socket] = sockets
    await closed(socket)
  })

  test.each([
    ['never comes', (_socket: Socket) => {}],
    ['breaks off', (socket: Socket) => setImmediate(() => socket.destroy())],
    ['is reset', (socket: Socket) => setImmediate(() => socket.resetAndDestroy())],
    ['is no HTTP', (socket: Socket) => socket.write('nonsense\r\n')],
  ])('that %s leaves the status as it is', async (_name, goOn) => {
    const { port } = await rawServer((socket) => {
      socket.once('data', () => socket.write(`${head}4\r\nsome\r\n`, () => goOn(socket)))
    })
    const result = await post(sender(), local(port), { timeoutMs: 200 })
    expect(result.outcome).toEqual(answered(200))
  })

  test('is not waited for once the gateway stops', async () => {
    const stop = new AbortController()
    const { port } = await rawServer((socket) => {
      socket.once('data', () => socket.write(head, () => setTimeout(() => stop.abort(), 20)))
    })
    const result = await post(sender(), local(port), { signal: stop.signal })
    expect(result.outcome).toEqual(answered(200))
  })
})

describe('no answer', () => {
  test.each([
    ['says nothing', () => {}],
    ['says half a head', (socket: Socket) => void socket.write('HTTP/1.1 200 OK\r\nx-a: ')],
    ['only ever says 102', (socket: Socket) => void socket.write('HTTP/1.1 102 Processing\r\n\r\n')],
    [
      'trickles its head',
      (socket: Socket) => {
        socket.write('HTTP/1.1 200 OK\r\n')
        const drip = setInterval(() => socket.write('x-a: b\r\n'), 5)
        socket.once('close', () => clearInterval(drip))
      },
    ],
  ])('in time from one that %s, and the connection is dropped', async (_name, talk) => {
    const { port, sockets } = await rawServer((socket) => socket.once('data', () => talk(socket)))
    const result = await post(sender(), local(port), { timeoutMs: 150 })
    expect(result).toMatchObject({ outcome: failed('timeout'), responseHeaders: {} })
    expect(result.responseBody).toHaveLength(0)
    const [socket] = sockets
    await closed(socket)
  })

  test('when the name server does not answer: the connection was not there in time', async () => {
    const result = await post(sender({ lookup: () => {} }), 'http://never.example/', { timeoutMs: 100 })
    expect(result.outcome).toEqual(failed('connect_timeout'))
  })

  test.each([
    ['closes at once', (socket: Socket) => void socket.end()],
    ['resets at once', (socket: Socket) => void socket.resetAndDestroy()],
    ['closes within its head', (socket: Socket) => void socket.end('HTTP/1.1 200 OK\r\nx-a')],
  ])('from one that %s', async (_name, talk) => {
    const { port } = await rawServer((socket) => socket.once('data', () => talk(socket)))
    expect((await post(sender(), local(port))).outcome).toEqual(failed('reset'))
  })

  test('from a port where nobody listens', async () => {
    const { port } = await rawServer(() => {})
    await opened.pop()?.()
    expect((await post(sender(), local(port))).outcome).toEqual(failed('refused'))
  })

  test.each([
    ['another protocol', 'SSH-2.0-OpenSSH_9.6\r\n'],
    ['no status', 'HTTP/1.1 OK\r\n\r\n'],
    ['a header without a name', 'HTTP/1.1 200 OK\r\n: x\r\n\r\n'],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n'],
    ['a head of more than 32 KiB', `HTTP/1.1 200 OK\r\n${'x-a: aaaaaaaaaaaaaaaa\r\n'.repeat(3000)}\r\n`],
    ['one header of more than 32 KiB', `HTTP/1.1 200 OK\r\nx-a: ${'a'.repeat(100_000)}\r\n\r\n`],
  ])('that is HTTP: %s', async (_name, said) => {
    const { port } = await saying(said)
    expect((await post(sender(), local(port))).outcome).toEqual(failed('malformed'))
  })

  test('over TLS from one that speaks plain HTTP', async () => {
    const { port } = await httpServer((_request, response) => response.end())
    expect((await post(sender(), `https://127.0.0.1:${port}/`)).outcome).toEqual(failed('tls'))
  })

  test('for a name that there is not', async () => {
    const lookup: LookupFunction = (_host, _options, callback) =>
      queueMicrotask(() => callback(Object.assign(new Error(), { code: 'ENOTFOUND' }), '', 0))
    expect((await post(sender({ lookup }), 'http://nowhere.example/')).outcome).toEqual(failed('dns'))
  })

  test.each(['', 'nonsense', 'ftp://127.0.0.1/', 'http://'])('for what is no URL: %j', async (url) => {
    expect((await post(sender(), url)).outcome).toMatchObject({ kind: 'failure' })
  })

  test('for a header that cannot be sent', async () => {
    const { port, sockets } = await rawServer(() => {})
    const result = await post(sender(), local(port), { headers: { 'x-split': 'a\r\nb: c' } })
    expect(result.outcome).toMatchObject({ kind: 'failure' })
    expect(sockets).toHaveLength(0)
  })

  test('once the gateway breaks off: before, while connecting, and while waiting', async () => {
    const { port, sockets } = await rawServer((socket) => socket.once('data', () => stop.abort()))
    const stop = new AbortController()
    expect((await post(sender(), local(port), { signal: stop.signal })).outcome).toEqual(failed('aborted'))
    expect((await post(sender(), local(port), { signal: stop.signal })).outcome).toEqual(failed('aborted'))
    expect(sockets).toHaveLength(1)
    const connecting = new AbortController()
    const lookup: LookupFunction = () => connecting.abort()
    const result = await post(sender({ lookup }), 'http://slow.example/', { signal: connecting.signal })
    expect(result.outcome).toEqual(failed('aborted'))
  })

  test('once the sender is closed', async () => {
    const { port } = await rawServer((socket) => socket.once('data', () => void closing.close()))
    const closing = sender()
    expect((await post(closing, local(port))).outcome).toEqual(failed('aborted'))
    expect((await post(closing, local(port))).outcome).toEqual(failed('aborted'))
  })

  test('what is given up before it is connected is never sent', async () => {
    let found: () => void = () => {}
    const lookup: LookupFunction = (_host, _options, callback) => {
      found = () => callback(null, [{ address: '127.0.0.1', family: 4 }])
    }
    const arrived: string[] = []
    const { port } = await rawServer((socket) =>
      socket.on('data', (data) => {
        arrived.push(data.toString())
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')
      }),
    )
    const slow = sender({ lookup })
    expect((await post(slow, `http://slow.example:${port}/`, { timeoutMs: 50 })).outcome).toEqual(
      failed('connect_timeout'),
    )
    found()
    const next = post(slow, `http://slow.example:${port}/`, { body: Buffer.from('second') })
    found()
    expect((await next).outcome).toEqual(answered(200))
    expect(arrived).toEqual([expect.stringMatching(/second$/)])
  })
})
