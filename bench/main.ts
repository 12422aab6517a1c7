/**
 * `npm run bench`: cycles, sends and receives, one at a time by many callers and a hundred at a time, through the broker in
 * this process and over HTTP, on an embedded Postgres with its default durability. Each cell is the median of interleaved
 * rounds; read the ratios of one run, not the figures of two. `--seconds 2 --rounds 3` by default.
 */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { getRequestListener } from '@hono/node-server'
import { Hono } from 'hono'
import { Agent, request } from 'undici'
import { type Broker, createBroker } from '../src/broker/index.ts'
import { createHttp, listen } from '../src/http/index.ts'
import type { NewMessage } from '../src/model/index.ts'
import { startEmbedded } from '../src/store/embedded/index.ts'
import { migrate } from '../src/store/index.ts'

type Scenario = {
  name: string
  callers: number /** Messages that one call moved; must end what it begins. */
  call(): Promise<number>
  prepare?(): Promise<void>
}

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
  },
})
const roundMs = Number(values.seconds) * 1000
const rounds = Number(values.rounds)

const body = Buffer.alloc(200, 'x')
const message: NewMessage = {
  body,
  contentType: 'text/plain',
  headers: null,
  key: null,
  priority: 5,
  delayMs: null,
  deliverAtMs: null,
  ttlMs: null,
  dedupId: null,
}
const hundred = Array.from({ length: 100 }, () => message)
const may = { queue: null, may: () => true }

function inProcess(broker: Broker): Scenario[] {
  const signal = new AbortController().signal
  const take = async (queue: string, max: number, waitMs: number) =>
    (await broker.receive(queue, { max, waitMs, leaseMs: null, signal })).messages
  const ack = (messages: { receipt: string }[]) =>
    broker.settle(
      messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
      may,
    )
  async function fill(queue: string): Promise<void> {
    await broker.admin.purgeQueue(queue, ['ready', 'leased'])
    for (let n = 0; n < 300; n++) await broker.send(queue, [...hundred, ...hundred, ...hundred, ...hundred, ...hundred])
  }
  async function cycle(batch: NewMessage[]): Promise<number> {
    await broker.send('cycle', batch)
    const got = await take('cycle', batch.length, 1000)
    await ack(got)
    return got.length
  }
  async function drain(max: number): Promise<number> {
    const got = await take('full', max, 0)
    await ack(got)
    return got.length
  }
  return [
    {
      name: 'in process  send      1 x 256 callers',
      callers: 256,
      call: async () => (await broker.send('send', [message])).length,
    },
    { name: 'in process  receive   1 x 256 callers', callers: 256, call: () => drain(1), prepare: () => fill('full') },
    { name: 'in process  cycle     1 x 256 callers', callers: 256, call: () => cycle([message]) },
    {
      name: 'in process  send    100 x 4 callers',
      callers: 4,
      call: async () => (await broker.send('send', hundred)).length,
    },
    { name: 'in process  receive 100 x 4 callers', callers: 4, call: () => drain(100), prepare: () => fill('full') },
    { name: 'in process  cycle   100 x 4 callers', callers: 4, call: () => cycle(hundred) },
  ]
}

function overHttp(url: string, bareUrl: string): Scenario[] {
  const dispatcher = new Agent({ connections: 256, pipelining: 1 })
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
  const batch = JSON.stringify({ messages: Array.from({ length: 100 }, () => ({ body: body.toString() })) })
  const receive = async (queue: string, max: number): Promise<{ receipt: string }[]> =>
    JSON.parse(await post(`${url}/v1/queues/${queue}/receive?max=${max}&wait=1s`, '', 'text/plain')).messages
  async function ackOne(receipt: string): Promise<void> {
    const answer = await request(`${url}/v1/leases/${receipt}`, { dispatcher, method: 'DELETE' })
    await answer.body.dump()
  }
  return [
    {
      name: 'http  bare Hono POST    1 x 64 callers',
      callers: 64,
      call: () => post(bareUrl, body, 'text/plain').then(() => 1),
    },
    {
      name: 'http  send              1 x 64 callers',
      callers: 64,
      call: () => post(`${url}/v1/queues/send/messages`, body, 'text/plain').then(() => 1),
    },
    {
      name: 'http  cycle             1 x 64 callers',
      callers: 64,
      async call() {
        await post(`${url}/v1/queues/cycle/messages`, body, 'text/plain')
        const got = await receive('cycle', 1)
        for (const { receipt } of got) await ackOne(receipt)
        return got.length
      },
    },
    {
      name: 'http  cycle           100 x 4 callers',
      callers: 4,
      async call() {
        await post(`${url}/v1/queues/cycle/messages/batch`, batch, 'application/json')
        const got = await receive('cycle', 100)
        await post(
          `${url}/v1/queues/cycle/settle`,
          JSON.stringify({ ack: got.map(({ receipt }) => receipt) }),
          'application/json',
        )
        return got.length
      },
    },
  ]
}

/** Messages per second of one round; the number of calls is bounded by the time alone. */
async function measure({ callers, call, prepare }: Scenario): Promise<number> {
  await prepare?.()
  const startMs = performance.now()
  let moved = 0
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (performance.now() - startMs < roundMs) {
        const count = await call()
        if (count === 0) break
        moved += count
      }
    }),
  )
  return (moved / (performance.now() - startMs)) * 1000
}

const median = (numbers: number[]): number => [...numbers].sort((a, b) => a - b)[numbers.length >> 1] ?? 0

/** Receiver waiting, one message at a time, 200 a second: milliseconds from the send to the arrival. */
async function latency(broker: Broker): Promise<{ p50: number; p99: number }> {
  const took: number[] = []
  const signal = new AbortController().signal
  for (let n = 0; n < 400; n++) {
    const waiting = broker.receive('latency', { max: 1, waitMs: 5000, leaseMs: null, signal })
    await new Promise((resolve) => setTimeout(resolve, 5))
    const startMs = performance.now()
    const sending = broker.send('latency', [message])
    const { messages } = await waiting
    took.push(performance.now() - startMs)
    await sending
    await broker.settle(
      messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
      may,
    )
  }
  took.sort((a, b) => a - b)
  return { p50: took[took.length >> 1] ?? 0, p99: took[Math.floor(took.length * 0.99)] ?? 0 }
}

async function main(): Promise<void> {
  const dir = mkdtempSync(path.join(tmpdir(), 'postern-bench-'))
  chmodSync(dir, 0o755)
  const postgres = await startEmbedded({ dir, log: () => {} })
  await migrate(postgres.url)
  const broker = createBroker({
    databaseUrl: postgres.url,
    listenUrl: null,
    pool: 10,
    prepare: true,
    upkeep: true,
    log: () => {},
  })
  await broker.start()
  for (const queue of ['send', 'full', 'cycle', 'latency']) await broker.admin.putQueue(queue, {})
  const http = createHttp({
    broker,
    rootKey: null,
    open: true,
    host: '127.0.0.1',
    maxBodyBytes: 1 << 20,
    maxWaitMs: 55_000,
    version: 'bench',
    log: () => {},
  })
  const gateway = await listen(http, { host: '127.0.0.1', port: 0, log: () => {} })
  const bare = new Hono().post('/', async (context) =>
    context.json({ bytes: (await context.req.arrayBuffer()).byteLength }, 201),
  )
  const bareServer = createServer(getRequestListener(bare.fetch)).listen(0, '127.0.0.1')
  await new Promise((resolve) => bareServer.once('listening', resolve))
  const bareUrl = `http://127.0.0.1:${(bareServer.address() as { port: number }).port}/`

  const scenarios = [...inProcess(broker), ...overHttp(gateway.url, bareUrl)].filter(
    ({ name }) => !values.only || name.includes(values.only),
  )
  const results = new Map(scenarios.map(({ name }) => [name, [] as number[]]))
  for (let round = 0; round <= rounds; round++) {
    for (const scenario of scenarios) {
      const rate = await measure(scenario)
      // The first round warms up.
      if (round > 0) results.get(scenario.name)?.push(rate)
    }
    await broker.admin.purgeQueue('send', ['ready'])
  }
  const { p50, p99 } = await latency(broker)
  const rows = [...results].map(([name, rates]) => ({
    name,
    perSecond: Math.round(median(rates)),
    lowest: Math.round(Math.min(...rates)),
    highest: Math.round(Math.max(...rates)),
  }))
  console.log('messages per second                        median    lowest   highest')
  for (const row of rows)
    console.log(
      `${row.name.padEnd(40)} ${String(row.perSecond).padStart(8)} ${String(row.lowest).padStart(9)} ${String(row.highest).padStart(9)}`,
    )
  console.log(`send to waiting receiver, in process: p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`)
  const folder = new URL('results/', import.meta.url).pathname
  mkdirSync(folder, { recursive: true })
  writeFileSync(
    path.join(folder, 'latest.json'),
    `${JSON.stringify({ node: process.version, rows, latency: { p50, p99 } }, null, 2)}\n`,
  )

  bareServer.close()
  bareServer.closeAllConnections()
  await gateway.close()
  await broker.stop(5000)
  await postgres.stop()
  rmSync(dir, { recursive: true, force: true })
}

await main()
process.exit(0)
