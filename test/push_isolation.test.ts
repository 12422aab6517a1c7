/** Endpoints that behave badly delay nobody but themselves. */

import type { AddressInfo } from 'node:net'
import { createServer, type Server, type Socket } from 'node:net'
import { afterAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { defaultSubscription, type SubscriptionSettings } from '../src/model/index.ts'
import { createPush, newSecret } from '../src/push/index.ts'
import { type Bench, brokersOn, message } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { startSink } from './support/sink.ts'

const closing: (() => Promise<unknown>)[] = []
afterAll(async () => {
  for (const close of closing) await close()
})

/** A server that does with a connection what it likes. */
async function hostile(serve: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    serve(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

function trickle(socket: Socket, head: string): void {
  socket.write(head)
  const timer = setInterval(() => socket.write('x'), 100)
  socket.on('close', () => clearInterval(timer))
}

/** As much as the other side takes. */
function flood(socket: Socket): void {
  socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n')
  const chunk = Buffer.alloc(65_536)
  const more = (): void => {
    while (!socket.destroyed && socket.write(chunk));
  }
  socket.on('drain', more)
  more()
}

test('fifty healthy endpoints are served at once beside five hostile ones', async () => {
  const bench: Bench = await brokersOn(1, 8)
  const broker = bench.brokers[0] as Broker
  const push = createPush({ broker, allowPrivate: true, version: 'test', log: () => {} })
  push.start()
  closing.push(
    () => push.stop(0),
    () => bench.stop(),
  )
  await broker.admin.putTopic('all', {})
  const subscribe = (url: string, more: Partial<SubscriptionSettings> = {}) =>
    broker.admin.createSubscription(
      { topic: 'all', pattern: '#', filter: null },
      { ...defaultSubscription, timeoutMs: 30_000, url, ...more },
      newSecret(),
    )

  const sink = await startSink()
  closing.push(() => sink.close())
  await subscribe(await hostile(() => {})) // hangs
  await subscribe(await hostile((socket) => trickle(socket, 'HTTP/1.1 200 OK\r\nX: '))) // trickles its head
  await subscribe(await hostile((socket) => trickle(socket, 'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n')))
  await subscribe(await hostile(flood))
  await subscribe(await hostile((socket) => socket.resetAndDestroy()))
  for (let n = 0; n < 50; n++) await subscribe(`${sink.url}/${n}`)

  const before = process.memoryUsage().rss
  const sent = 20
  for (let n = 0; n < sent; n++) expect(await broker.publish('all', '', message(`${n}`))).toMatchObject({ matched: 55 })
  // Far below the thirty seconds for which a hanging endpoint holds its own deliveries.
  await eventually(() => sink.hits.length === 50 * sent, 15_000)
  const byEndpoint = new Set(sink.hits.map((hit) => `${hit.path} ${hit.body}`))
  expect(byEndpoint.size).toBe(50 * sent)
  expect(process.memoryUsage().rss - before).toBeLessThan(300 * 1024 * 1024)
}, 60_000)
