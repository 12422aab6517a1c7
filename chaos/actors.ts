/** Clients that use the queues and write down what they see: producers that retry, consumers of every temper, and a webhook. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, type Dispatcher } from 'undici'
import type { Delivery, History, QueueRules, Settle, SettleKind } from './history.ts'
import type { Random } from './random.ts'

export type World = {
  history: History
  random: Random
  /** Where the gateways answer: any of them for each request. */
  urls: string[]
  agent: Dispatcher
  /** How often a client tries a send before it gives up; whoever must not fail has patience. */
  tries: number
  /** The storm is over: consumers do their work. */
  calm: boolean
}

export type Answer = { status: number; json: unknown }
type Message = {
  id: string
  receipt: string
  body: string
  key: string | null
  attempt: number
  lease_expires_at: string
}

const leaseMs = 1500
const waitS = 1
const patienceMs = 6_000
/** What a gateway may answer while things break around it. */
const explained = new Set([200, 201, 202, 204, 409, 503])

/** The queues of a run; `limit` is never acked, `hook` goes to the webhook, `fan.*` are bound to a topic. */
export const queues: QueueRules[] = [
  { name: 'work', keyed: false, maxAttempts: 30 },
  { name: 'keyed', keyed: true, maxAttempts: 30 },
  { name: 'limit', keyed: false, maxAttempts: 2 },
  { name: 'hook', keyed: false, maxAttempts: 30 },
  { name: 'fan.a', keyed: false, maxAttempts: 30 },
  { name: 'fan.b', keyed: false, maxAttempts: 30 },
]

/** null: no answer, so that nobody knows. A status that nothing explains is a mishap. */
export async function ask(
  { urls, agent, random, history }: World,
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE',
  path: string,
  body: string | null = null,
  headers: Record<string, string> = { 'content-type': 'application/json' },
): Promise<Answer | null> {
  const origin = urls[random.between(0, urls.length - 1)] as string
  try {
    const signal = AbortSignal.timeout(patienceMs)
    const answer = await agent.request({ origin, path, method, body, headers, signal })
    const text = await answer.body.text()
    if (!explained.has(answer.statusCode)) history.mishaps.push(`${method} ${path}: ${answer.statusCode} ${text}`)
    return { status: answer.statusCode, json: text === '' ? null : JSON.parse(text) }
  } catch {
    return null
  }
}

/** The same, until it is answered with 2xx; throws after half a minute. */
export async function insist(world: World, ...request: ParametersAfter<typeof ask>): Promise<unknown> {
  for (let left = 60; left > 0; left--) {
    const answer = await ask(world, ...request)
    if (answer && answer.status < 300) return answer.json
    await sleep(500)
  }
  throw new Error(`No success: ${request[0]} ${request[1]}`)
}
type ParametersAfter<F> = F extends (first: never, ...rest: infer R) => unknown ? R : never

export async function setUp(world: World, sinkUrl: string): Promise<void> {
  for (const { name, keyed, maxAttempts } of queues) {
    const settings = { order: keyed ? 'keyed' : 'fifo', max_attempts: maxAttempts, lease: `${leaseMs}ms` }
    await insist(world, 'PUT', `/v1/queues/${name}`, JSON.stringify(settings))
  }
  await insist(world, 'PUT', '/v1/topics/fan', '{}')
  for (const queue of ['fan.a', 'fan.b'])
    await insist(world, 'PUT', `/v1/topics/fan/bindings/${queue}`, JSON.stringify({ queue }))
  const retry = { base: '200ms', max: '1s', factor: 2 }
  const hook = { queue: 'hook', url: sinkUrl, timeout: '1s', retry, max_attempts: 30 }
  await insist(world, 'POST', '/v1/subscriptions', JSON.stringify(hook))
}

/** Sends one message after the other until it is told to stop; a key has one producer. */
export async function produce(world: World, number: number, signal: AbortSignal): Promise<void> {
  const random = world.random.child(`producer ${number}`)
  for (let n = 0; !signal.aborted; n++) {
    const kind = random.next()
    const name = `p${number}-${n}`
    const key = kind < 0.3 ? `p${number}k${random.between(0, 2)}` : null
    const target = key ? 'keyed' : kind < 0.65 ? 'work' : kind < 0.7 ? 'limit' : kind < 0.85 ? 'hook' : 'fan'
    const delayMs = target === 'work' && random.chance(0.3) ? random.between(1, 1500) : 0
    await send(world, { name, key, target, delayMs })
    await sleep(random.between(2, 25))
  }
}

type Outgoing = { name: string; key: string | null; target: string; delayMs: number }

/** Under one dedup id, so that a retry is no second message. */
async function send(world: World, { name, key, target, delayMs }: Outgoing): Promise<void> {
  const query = new URLSearchParams({ dedup_id: name, delay: `${delayMs}ms`, ...(key ? { key } : {}) })
  const path = target === 'fan' ? '/v1/topics/fan/messages' : `/v1/queues/${target}/messages`
  const askedMs = Date.now()
  let id: string | null = null
  let tries = 0
  while (id === null && tries++ < world.tries) {
    const answer = await ask(world, 'POST', `${path}?${query}`, name, { 'content-type': 'text/plain' })
    if (answer && answer.status < 300) id = (answer.json as { id: string }).id
    else await sleep(100 * Math.min(tries, 5))
  }
  const answeredMs = Date.now()
  const reached = target === 'fan' ? ['fan.a', 'fan.b'] : [target]
  for (const queue of reached) world.history.sends.push({ queue, name, key, delayMs, askedMs, answeredMs, id })
}

/** Receives and settles until it is told to stop, and comes late on purpose; resolves when its last late act is done. */
export async function consume(world: World, queue: string, number: number, signal: AbortSignal): Promise<void> {
  const random = world.random.child(`consumer ${queue} ${number}`)
  const late = new Set<Promise<unknown>>()
  while (!signal.aborted) {
    const deliveries = await receive(world, queue, random.between(1, 10))
    if (deliveries === null) await sleep(200)
    for (const delivery of deliveries ?? []) {
      const tardy = queue === 'limit' ? giveUp(world, random, delivery) : work(world, random, delivery)
      const done: Promise<unknown> = tardy.then(() => late.delete(done))
      late.add(done)
      // One after the other, but for those that wait.
      await Promise.race([done, sleep(50)])
    }
  }
  await Promise.all(late)
}

async function receive(world: World, queue: string, max: number): Promise<Delivery[] | null> {
  const askedMs = Date.now()
  const answer = await ask(world, 'POST', `/v1/queues/${queue}/receive?max=${max}&wait=${waitS}s`)
  if (answer?.status !== 200) return null
  const answeredMs = Date.now()
  const { messages } = answer.json as { messages: Message[] }
  const first = world.history.deliveries.length
  const deliveries = messages.map(({ id, receipt, body: name, key, attempt, lease_expires_at }, place) => {
    const untilMs = Date.parse(lease_expires_at)
    return { queue, name, id, key, receipt, attempt, askedMs, answeredMs, untilMs, answer: first, place }
  })
  world.history.deliveries.push(...deliveries)
  return deliveries
}

async function work(world: World, random: Random, delivery: Delivery): Promise<void> {
  const mood = world.calm ? 0 : random.next()
  if (mood < 0.75) await settle(world, delivery, 'ack')
  else if (mood < 0.82) await settle(world, delivery, 'nack', random.between(0, 400))
  else if (mood < 0.84) await settle(world, delivery, 'reject')
  else if (mood < 0.89) {
    await settle(world, delivery, 'extend')
    await sleep(random.between(100, 2500))
    await settle(world, delivery, 'ack')
  } else if (mood < 0.96) {
    await sleep(random.between(leaseMs - 200, leaseMs + 2000))
    await settle(world, delivery, random.chance(0.7) ? 'ack' : 'nack')
  }
  // The others are left lying.
}

const giveUp = async (world: World, random: Random, delivery: Delivery): Promise<void> => {
  if (random.chance(0.5)) await settle(world, delivery, 'nack', random.between(0, 300))
}

async function settle(world: World, { receipt }: Delivery, kind: SettleKind, delayMs = 0): Promise<void> {
  const lease = `/v1/leases/${receipt}`
  const askedMs = Date.now()
  const answer =
    kind === 'ack'
      ? await ask(world, 'DELETE', lease)
      : kind === 'nack'
        ? await ask(world, 'POST', `${lease}/nack?delay=${delayMs}ms`)
        : kind === 'reject'
          ? await ask(world, 'POST', `${lease}/reject`, '{"reason":"chaos"}')
          : await ask(world, 'PATCH', lease, JSON.stringify({ lease: `${leaseMs}ms` }))
  const ended = (answer?.json as { lease_expires_at?: string } | null)?.lease_expires_at
  const outcome: Settle['outcome'] =
    !answer || answer.status >= 500 ? 'unknown' : answer.status === 409 ? 'lease_lost' : 'done'
  const untilMs = ended ? Date.parse(ended) : askedMs + leaseMs
  world.history.settles.push({ receipt, kind, askedMs, answeredMs: Date.now(), outcome, delayMs, untilMs })
}

/** A webhook that mostly works: it also fails, answers too late, or hangs up. */
export async function startSink(world: World): Promise<{ url: string; close(): Promise<void> }> {
  const random = world.random.child('sink')
  const server = createServer(async (request, response) => {
    const parts: Buffer[] = []
    for await (const part of request) parts.push(part as Buffer)
    const arrivedMs = Date.now()
    const mood = world.calm ? 0 : random.next()
    const { 'webhook-id': id, 'postern-attempt': attempt } = request.headers
    const status = mood < 0.85 ? 200 : mood < 0.93 ? 500 : null
    const name = Buffer.concat(parts).toString()
    world.history.calls.push({ queue: 'hook', name, id: String(id), attempt: Number(attempt), arrivedMs, status })
    if (status !== null) response.writeHead(status).end()
    else if (mood < 0.97) setTimeout(() => response.writeHead(500).end(), 1200)
    else request.socket.destroy()
  })
  server.on('clientError', (_, socket) => socket.destroy())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** As many connections as clients ask for, none of them reused for long: a cut one is replaced. */
export const createAgent = (): Agent => new Agent({ connections: 64, pipelining: 1, keepAliveTimeout: 2000 })
