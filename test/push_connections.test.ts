/** Which connections an attempt takes, keeps and dials, and the guard on what is dialled. */

import type { LookupAddress } from 'node:dns'
import type { LookupFunction, Socket } from 'node:net'
import { describe, expect, test } from 'vitest'
import { addressPolicy } from '../src/push/address.ts'
import { answered, failed, httpServer, local, post, rawServer, sender } from './support/endpoints.ts'

describe('connections', () => {
  test('that end with the answer are dialled anew', async () => {
    const { port, sockets } = await rawServer((socket) =>
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\n\r\nto the end')),
    )
    const one = sender()
    for (let count = 0; count < 5; count++) {
      const result = await post(one, local(port))
      expect([result.outcome, result.responseBody.toString()]).toEqual([answered(200), 'to the end'])
    }
    expect(sockets).toHaveLength(5)
  })

  test('are kept for the next attempt', async () => {
    const { port, connections } = await httpServer((_request, response) => response.end('ok'))
    const one = sender()
    for (let count = 0; count < 50; count++) expect((await post(one, local(port))).outcome).toEqual(answered(200))
    expect(connections()).toBe(1)
  })

  test('are not kept when the body was cut', async () => {
    const { port, connections } = await httpServer((_request, response) => response.end(Buffer.alloc(1_000_000)))
    const one = sender()
    for (let count = 0; count < 3; count++) await post(one, local(port))
    expect(connections()).toBe(3)
  })

  test('are as many as there are attempts: a slow one delays no other', async () => {
    let fast = 0
    const { port } = await httpServer((request, response) => {
      if (request.url === '/slow') return
      fast++
      response.end()
    })
    const one = sender()
    const stop = new AbortController()
    const slow = Array.from({ length: 200 }, () => post(one, `${local(port)}slow`, { signal: stop.signal }))
    for (let count = 0; count < 5; count++) expect((await post(one, local(port))).outcome).toEqual(answered(200))
    expect(fast).toBe(5)
    stop.abort()
    for (const each of await Promise.all(slow)) expect(each.outcome).toEqual(failed('aborted'))
  })

  test('a name is looked up once for all that wait for it', async () => {
    let lookups = 0
    const lookup: LookupFunction = (_host, _options, callback) => {
      lookups++
      setTimeout(() => callback(null, [{ address: '127.0.0.1', family: 4 }]), 20)
    }
    const { port } = await httpServer((_request, response) => response.end())
    const one = sender({ lookup })
    const results = await Promise.all(Array.from({ length: 10 }, () => post(one, `http://busy.example:${port}/`)))
    expect(results.map(({ outcome }) => outcome)).toEqual(results.map(() => answered(200)))
    expect(lookups).toBe(1)
  })
})

describe('the guard', () => {
  const hosts = [
    '127.0.0.1',
    '[::1]',
    '[::ffff:127.0.0.1]',
    '0x7f000001',
    '2130706433',
    '017700000001',
    '127.1',
    '0.0.0.0',
    '169.254.169.254',
    '10.0.0.1',
    '100.64.0.1',
    '[fc00::1]',
    '[fe80::1]',
    '[64:ff9b::7f00:1]',
    '[::]',
    'localhost',
  ]
  const names =
    (answers: Record<string, LookupAddress[]>): LookupFunction =>
    (host, options, callback) =>
      queueMicrotask(() => {
        const all = answers[host] ?? []
        if (options.all) callback(null, all)
        else callback(null, all[0]?.address ?? '', all[0]?.family)
      })
  const v4 = (address: string): LookupAddress => ({ address, family: 4 })
  const accept = (socket: Socket): void => {
    socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'))
  }

  test.each(hosts)('http://%s is not dialled', async (host) => {
    const { port, sockets } = await rawServer(accept, '::').catch(() => rawServer(accept, '0.0.0.0'))
    for (const scheme of ['http', 'https']) {
      const result = await post(sender({ allow: addressPolicy(false) }), `${scheme}://${host}:${port}/`, {
        timeoutMs: 2000,
      })
      expect(result.outcome).toEqual({ kind: 'failure', code: 'forbidden_address', detail: '' })
    }
    expect(sockets).toHaveLength(0)
  })

  test('what the policy allows is dialled', async () => {
    const { port } = await rawServer(accept)
    const allow = addressPolicy(['127.0.0.1/32'])
    for (const host of ['127.0.0.1', '0x7f000001', '2130706433', '127.1'])
      expect((await post(sender({ allow }), `http://${host}:${port}/`)).outcome).toEqual(answered(200))
  })

  test('of a name with allowed and other addresses only the allowed are dialled', async () => {
    const { port, sockets } = await rawServer(accept, '0.0.0.0')
    const lookup = names({ 'mixed.example': [v4('127.0.0.2'), v4('127.0.0.1'), v4('127.0.0.3')] })
    const one = sender({ lookup, allow: (address) => address === '127.0.0.1' })
    expect((await post(one, `http://mixed.example:${port}/`)).outcome).toEqual(answered(200))
    expect(sockets.map((socket) => socket.localAddress)).toEqual(['127.0.0.1'])
  })

  test('a name with no allowed address is not dialled', async () => {
    const { port, sockets } = await rawServer(accept, '0.0.0.0')
    const lookup = names({ 'internal.example': [v4('127.0.0.2'), { address: '::ffff:127.0.0.3', family: 6 }] })
    const one = sender({ lookup, allow: (address) => address === '127.0.0.1' })
    expect((await post(one, `http://internal.example:${port}/`)).outcome).toEqual(failed('forbidden_address'))
    expect(sockets).toHaveLength(0)
  })

  test('a name that changes its mind is judged by what is dialled', async () => {
    const { port, sockets } = await rawServer((socket) => {
      // Each answer closes the connection, so that the next attempt has to dial again.
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n'))
    }, '0.0.0.0')
    const answers = [[v4('127.0.0.1')], [v4('127.0.0.2')]]
    const lookup: LookupFunction = (_host, _options, callback) =>
      queueMicrotask(() => callback(null, answers.shift() ?? [v4('127.0.0.3')]))
    const one = sender({ lookup, allow: (address) => address === '127.0.0.1' })
    const url = `http://rebinding.example:${port}/`
    expect((await post(one, url)).outcome).toEqual(answered(200))
    expect((await post(one, url)).outcome).toEqual(failed('forbidden_address'))
    expect((await post(one, url)).outcome).toEqual(failed('forbidden_address'))
    expect(sockets.map((socket) => socket.localAddress)).toEqual(['127.0.0.1'])
  })

  test('a lookup is asked for all addresses, and may answer with one', async () => {
    const { port } = await rawServer(accept)
    const lookup: LookupFunction = (_host, _options, callback) => queueMicrotask(() => callback(null, '127.0.0.1', 4))
    expect((await post(sender({ lookup }), `http://one.example:${port}/`)).outcome).toEqual(answered(200))
  })

  test('can fail: without a policy the same server is reached', async () => {
    const { port, sockets } = await rawServer(accept)
    expect((await post(sender(), local(port))).outcome).toEqual(answered(200))
    expect(sockets).toHaveLength(1)
  })
})
