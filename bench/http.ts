/** Sends and cycles over HTTP, beside a Hono server that stores nothing. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import { Hono } from 'hono'
import { Agent, request } from 'undici'
import { createHttp, listen } from '../src/http/index.ts'
import { body, once, type Place, telemetry } from './place.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const batch = JSON.stringify({ messages: Array.from({ length: 100 }, () => ({ body: body.toString() })) })

type Urls = { gateway: string; bare: string }

export function httpPart(place: Place): Part {
  const { broker } = place
  const dispatcher = new Agent({ connections: 256, pipelining: 1 })
  const started = once(() => start(place))

  async function post(target: string, content: string | Buffer, type: string): Promise<string> {
    const answer = await request(target, {
      dispatcher,
      method: 'POST',
      body: content,
      headers: { 'content-type': type },
    })
    const text = await answer.body.text()
    if (answer.statusCode >= 300) throw new Error(`${answer.statusCode} ${text}`)
    return text
  }
  async function receive({ gateway }: Urls, max: number): Promise<{ receipt: string }[]> {
    const answer = await post(`${gateway}/v1/queues/http-cycle/receive?max=${max}&wait=1s`, '', 'text/plain')
    return JSON.parse(answer).messages
  }
  async function cycle(urls: Urls): Promise<number> {
    await post(`${urls.gateway}/v1/queues/http-cycle/messages`, body, 'text/plain')
    const got = await receive(urls, 1)
    for (const { receipt } of got) {
      const answer = await request(`${urls.gateway}/v1/leases/${receipt}`, { dispatcher, method: 'DELETE' })
      await answer.body.dump()
    }
    return got.length
  }
  async function cycleHundred(urls: Urls): Promise<number> {
    await post(`${urls.gateway}/v1/queues/http-cycle/messages/batch`, batch, 'application/json')
    const got = await receive(urls, 100)
    const receipts = JSON.stringify({ ack: got.map(({ receipt }) => receipt) })
    await post(`${urls.gateway}/v1/queues/http-cycle/settle`, receipts, 'application/json')
    return got.length
  }
  async function one(target: string): Promise<number> {
    await post(target, body, 'text/plain')
    return 1
  }
  const cell = (name: string, callers: number, call: (urls: Urls) => Promise<number>): Scenario => ({
    name: `http  ${name} x ${callers} callers`,
    prepare: started,
    async run(roundMs) {
      const urls = await started()
      return await calling({ callers, call: () => call(urls) }, roundMs)
    },
    tidy: () => broker.admin.purgeQueue('http-send', ['ready']),
  })
  const bare = cell('bare Hono POST    1', 64, ({ bare }) => one(bare))
  const send = cell('send              1', 64, ({ gateway }) => one(`${gateway}/v1/queues/http-send/messages`))
  return {
    title: 'messages per second',
    scenarios: [bare, send, cell('cycle             1', 64, cycle), cell('cycle           100', 4, cycleHundred)],
    latencies: [],
    ratios: [[send.name, bare.name]],
  }
}

async function start({ broker, closing }: Place): Promise<Urls> {
  for (const queue of ['http-send', 'http-cycle']) await broker.admin.putQueue(queue, {})
  const http = createHttp({
    broker,
    rootKey: null,
    open: true,
    host: '127.0.0.1',
    maxBodyBytes: 1 << 20,
    maxWaitMs: 55_000,
    maxBodiesInFlightBytes: 256 * 1024 * 1024,
    rateLimit: null,
    maxAnswersInFlightBytes: 256 * 1024 * 1024,
    rateLimitPerKey: null,
    rateLimitRefused: null,
    version: 'bench',
    observe: telemetry.observe,
    log: () => {},
  })
  const gateway = await listen(http, { host: '127.0.0.1', port: 0, log: () => {} })
  const bare = new Hono().post('/', async (context) =>
    context.json({ bytes: (await context.req.arrayBuffer()).byteLength }, 201),
  )
  const bareServer = createServer(getRequestListener(bare.fetch)).listen(0, '127.0.0.1')
  await new Promise((resolve) => bareServer.once('listening', resolve))
  closing.push(async () => {
    bareServer.close()
    bareServer.closeAllConnections()
    await gateway.close()
  })
  return { gateway: gateway.url, bare: `http://127.0.0.1:${(bareServer.address() as AddressInfo).port}/` }
}
