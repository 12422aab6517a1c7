/** Answers that do not arrive: whoever had hung up, hangs up in the middle or never reads has been leased nothing; whoever has the answer has. */
import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { listen } from '../src/http/index.ts'
import { type TestApp, testApp } from './support/app.ts'
import { receive, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

let app: TestApp
/** Called with each lease before the gateway knows of it. */
let leased: () => void = () => {}
beforeAll(async () => {
  app = await testApp({
    broken: (broker) => ({
      async receive(queue, options) {
        const received = await broker.receive(queue, options)
        if (received.messages.length > 0) leased()
        return received
      },
    }),
  })
})
afterAll(() => app.stop())

const opened: (() => unknown)[] = []
afterEach(async () => {
  leased = () => {}
  for (const close of opened.splice(0).reverse()) await close()
})

let count = 0
async function newQueue(): Promise<string> {
  const name = `arrival${count++}`
  await app.broker.admin.putQueue(name, { leaseMs: 3_600_000 })
  return name
}
async function connect(port: number): Promise<Socket> {
  const socket = createConnection({ port, host: '127.0.0.1' })
  socket.on('error', () => {})
  opened.push(() => socket.destroy())
  await once(socket, 'connect')
  return socket
}
const post = (socket: Socket, path: string): boolean =>
  socket.write(`POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`)
async function answer(socket: Socket): Promise<string> {
  let text = ''
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    text += chunk
    const length = Number(/content-length: (\d+)/i.exec(text)?.[1])
    if (text.length >= text.indexOf('\r\n\r\n') + 4 + length) break
  }
  return text
}
/** It is ready again at once, though its lease is an hour, and the attempt does not count. */
async function isReadyAgain(queue: string, messages = 1): Promise<void> {
  let got: unknown[] = []
  await eventually(async () => {
    got = [...got, ...(await receive(app.broker, queue, messages)).map(({ attempt }) => attempt)]
    return got.length >= messages
  })
  expect(got).toEqual(Array.from({ length: messages }, () => 1))
}

/** A gateway whose client hangs up when the answer to such a request is ready and not yet written. */
async function hangingUp(ending: string): Promise<{ port: number; hungUp(client: Socket): void }> {
  let client: Socket | undefined
  const fetch = async (...given: Parameters<typeof app.http.fetch>): Promise<Response> => {
    const response = await app.http.fetch(...given)
    if (new URL(given[0].url).pathname.endsWith(ending)) client?.destroy()
    return response
  }
  const listening = await listen({ fetch }, { host: '127.0.0.1', port: 0, log: () => {} })
  opened.push(() => listening.close())
  return {
    port: listening.port,
    hungUp: (which) => {
      client = which
    },
  }
}

describe('a client that has hung up', () => {
  test.each(['receive?wait=30s', 'settle?receive=1&wait=30s'])('while %s leases for it', async (call) => {
    const { port } = await app.listen()
    const queue = await newQueue()
    const client = await connect(port)
    // Its end lies in the socket, and nobody has read that yet.
    leased = () => client.destroy()
    post(client, `/v1/queues/${queue}/${call}`)
    await send(app.broker, queue, 'x')
    await eventually(() => client.destroyed)
    await isReadyAgain(queue)
  })

  test('while the answer is on its way', async () => {
    const { port, hungUp } = await hangingUp('/receive')
    const queue = await newQueue()
    await send(app.broker, queue, 'x')
    const client = await connect(port)
    hungUp(client)
    post(client, `/v1/queues/${queue}/receive`)
    await eventually(() => client.destroyed)
    await isReadyAgain(queue)
  })

  test('in the middle of a large answer', async () => {
    const { port } = await app.listen()
    const queue = await newQueue()
    await send(app.broker, queue, ...Array.from({ length: 10 }, () => 'x'.repeat(1_000_000)))
    const client = await connect(port)
    post(client, `/v1/queues/${queue}/receive?max=10`)
    await once(client, 'data')
    client.pause()
    client.destroy()
    await isReadyAgain(queue, 10)
  })
})

describe('a client that has its answer', () => {
  async function received(port: number): Promise<{ queue: string; client: Socket }> {
    const queue = await newQueue()
    await send(app.broker, queue, 'x')
    const client = await connect(port)
    post(client, `/v1/queues/${queue}/receive`)
    expect(await answer(client)).toContain('"body":"x"')
    return { queue, client }
  }

  test.each([
    ['closes in order', (client: Socket) => client.end()],
    ['breaks its connection: it may have read before', (client: Socket) => client.resetAndDestroy()],
  ])('keeps the lease when it %s', async (_, leave) => {
    const { port } = await app.listen()
    const { queue, client } = await received(port)
    leave(client)
    await once(client, 'close')
    await notReady(queue)
  })

  test('and has asked again keeps the lease, though it does not wait for that', async () => {
    const { port, hungUp } = await hangingUp('/stats')
    const { queue, client } = await received(port)
    hungUp(client)
    client.write(`GET /v1/queues/${queue}/stats HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    await eventually(() => client.destroyed)
    await notReady(queue)
  })

  /** As long as the others took to be ready again. */
  async function notReady(queue: string): Promise<void> {
    const other = await newQueue()
    await send(app.broker, other, 'y')
    const { port } = await app.listen()
    const client = await connect(port)
    leased = () => client.destroy()
    post(client, `/v1/queues/${other}/receive`)
    await eventually(() => client.destroyed)
    leased = () => {}
    await isReadyAgain(other)
    expect(await receive(app.broker, queue)).toEqual([])
  }
})
