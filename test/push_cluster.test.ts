/** Several gateways deliver for the same subscriptions: one at a time for each, whatever happens to them. */
import { afterEach, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { defaultSubscription, type SubscriptionSettings } from '../src/model/index.ts'
import { createPush, newSecret, type Push } from '../src/push/index.ts'
import { type Bench, brokersOn, message, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { type Sink, slowly, startSink } from './support/sink.ts'

let bench: Bench
let pushes: Push[] = []
let sinks: Sink[] = []

afterEach(async () => {
  await Promise.all(pushes.map((push) => push.stop(300)))
  await bench.stop()
  await Promise.all(sinks.map((sink) => sink.close()))
  pushes = []
  sinks = []
})

async function gateways(count: number): Promise<Broker[]> {
  bench = await brokersOn(count, 5)
  pushes = bench.brokers.map((broker) => createPush({ broker, allowPrivate: true, version: 'test', log: () => {} }))
  for (const push of pushes) push.start()
  return bench.brokers
}

async function sinkOf(answer?: Sink['answer']): Promise<Sink> {
  const sink = await startSink(answer)
  sinks.push(sink)
  return sink
}

async function subscribe(broker: Broker, queue: string, sink: Sink, more: Partial<SubscriptionSettings> = {}) {
  await broker.admin.putQueue(queue, {})
  const settings = { ...defaultSubscription, url: sink.url, ...more }
  return await broker.admin.createSubscription({ queue }, settings, newSecret())
}

const numbered = (count: number): string[] => Array.from({ length: count }, (_, n) => `${n}`)
const owners = async () =>
  (
    await bench.db.sql<{ owner: string | null; n: number }[]>`
    select owner, count(*)::int as n from postern.subscriptions group by owner order by owner`
  ).map((row) => row)

test('concurrency holds over three gateways, and every message is delivered once', async () => {
  const [a, b, c] = (await gateways(3)) as [Broker, Broker, Broker]
  const sink = await sinkOf(slowly(15))
  await subscribe(a, 'narrow', sink, { concurrency: 3 })
  await Promise.all([a, b, c].map((broker, n) => send(broker, 'narrow', ...numbered(40).map((each) => `${n}.${each}`))))
  await eventually(() => sink.hits.length >= 120, 20_000)
  expect(new Set(sink.bodies()).size).toBe(120)
  expect(sink.hits).toHaveLength(120)
  expect(sink.most).toBeLessThanOrEqual(3)
}, 40_000)

test('a rate holds over three gateways', async () => {
  const [a, b, c] = (await gateways(3)) as [Broker, Broker, Broker]
  const sink = await sinkOf()
  await subscribe(a, 'paced', sink, { rate: { count: 20, perMs: 1000 } })
  await Promise.all([a, b, c].map((broker) => send(broker, 'paced', ...numbered(15))))
  await eventually(() => sink.hits.length === 45, 20_000)
  const times = sink.hits.map((hit) => hit.atMs)
  // In any second no more than the rate, one at its edge, and what a late timer makes up for.
  for (const from of times) expect(times.filter((at) => at >= from && at < from + 1000).length).toBeLessThanOrEqual(22)
}, 40_000)

test('each gateway has its fair share; one that stops hands over, and nothing comes twice', async () => {
  const brokers = await gateways(2)
  const [a] = brokers as [Broker]
  const sink = await sinkOf()
  for (let n = 0; n < 6; n++) await subscribe(a, `shared${n}`, sink)
  await eventually(async () => {
    const found = await owners()
    return found.length === 2 && found.every(({ owner, n }) => owner !== null && n === 3)
  })
  const sending = (async () => {
    for (let round = 0; round < 20; round++)
      for (let n = 0; n < 6; n++) await send(brokers[1] as Broker, `shared${n}`, `${round}.${n}`)
  })()
  await pushes[0]?.stop(2000)
  await sending
  await eventually(() => new Set(sink.bodies()).size === 120, 20_000)
  expect(sink.hits).toHaveLength(120)
  expect(await owners()).toMatchObject([{ n: 6 }])
}, 40_000)

test('a gateway that stops with one endpoint hanging hands over the others at once', async () => {
  const [a] = (await gateways(2)) as [Broker]
  const [hanging, sink] = [await sinkOf(() => {}), await sinkOf()]
  for (let n = 0; n < 6; n++) await subscribe(a, `mixed${n}`, n < 2 ? hanging : sink)
  await eventually(async () => (await owners()).every(({ owner, n }) => owner !== null && n === 3))
  for (let n = 0; n < 2; n++) await send(a, `mixed${n}`, 'x')
  await eventually(() => hanging.hits.length === 2)
  const stopping = Promise.all(pushes.slice(0, 1).map((push) => push.stop(20_000)))
  for (let n = 2; n < 6; n++) await send(a, `mixed${n}`, `${n}`)
  // Long before the one that stops gives up on what hangs.
  await eventually(() => sink.hits.length === 4, 8_000)
  await hanging.close()
  await stopping
}, 40_000)

test('a gateway that joins later gets its share, and what is under way is finished first', async () => {
  const [a, b] = (await gateways(2)) as [Broker, Broker]
  await pushes[1]?.stop(0)
  const sink = await sinkOf(slowly(30))
  for (let n = 0; n < 4; n++) await subscribe(a, `late${n}`, sink, { concurrency: 2 })
  for (let n = 0; n < 4; n++) await send(a, `late${n}`, ...numbered(30).map((each) => `${n}.${each}`))
  await eventually(() => sink.hits.length > 10)
  const joined = createPush({ broker: b, allowPrivate: true, version: 'test', log: () => {} })
  pushes.push(joined)
  joined.start()
  await eventually(async () => (await owners()).every(({ owner, n }) => owner !== null && n === 2))
  await eventually(() => new Set(sink.bodies()).size === 120, 20_000)
  expect(sink.hits).toHaveLength(120)
}, 40_000)

test('the fence: a gateway that no longer owns a subscription leases nothing for it, though it thinks it does', async () => {
  const [a] = (await gateways(1)) as [Broker]
  const sink = await sinkOf()
  const { id } = await subscribe(a, 'fenced', sink)
  await send(a, 'fenced', 'before')
  // Its ack comes a moment after the call.
  await eventually(async () => sink.hits.length === 1 && (await a.admin.getQueue('fenced')).counts.leased === 0)
  const { sql } = bench.db
  await sql`insert into postern.gateways (id, alive_until) values ('other', now() + interval '8 seconds')`
  await sql`update postern.subscriptions set owner = 'other' where name = ${id}`
  await send(a, 'fenced', 'after')
  // Handed over or looked for: the statement itself refuses.
  expect((await a.admin.getQueue('fenced')).counts).toMatchObject({ ready: 1, leased: 0 })
  expect(sink.hits).toHaveLength(1)
  // The other one is dead before long, and then it is this one's again.
  await eventually(() => sink.hits.length === 2, 25_000)
}, 40_000)

test('a message sent through one gateway is delivered by another, which owns the subscription', async () => {
  const [a, b] = (await gateways(2)) as [Broker, Broker]
  await pushes[1]?.stop(0)
  const sink = await sinkOf()
  await subscribe(a, 'across', sink)
  for (const each of numbered(20)) {
    await send(b, 'across', each)
    await eventually(() => sink.bodies().at(-1) === each)
  }
  expect(sink.bodies()).toEqual(numbered(20))
})

test('order for each key is kept through failures, over three gateways', async () => {
  const [a, b, c] = (await gateways(3)) as [Broker, Broker, Broker]
  let n = 0
  const sink = await sinkOf((_hit, response) => void response.writeHead(++n % 3 === 0 ? 500 : 200).end())
  await a.admin.putQueue('in-order', { order: 'keyed', maxAttempts: 1000 })
  const retry = { kind: 'schedule' as const, scheduleMs: [5] }
  await subscribe(a, 'in-order', sink, { retry })
  await subscribe(b, 'in-order', sink, { retry })
  for (const each of numbered(20))
    await Promise.all(
      [a, b, c].map((broker, key) => broker.send('in-order', [message(`${key}.${each}`, { key: `${key}` })])),
    )
  await eventually(() => new Set(sink.bodies()).size === 60, 30_000)
  for (const key of ['0', '1', '2']) {
    const mine = sink.bodies().filter((body) => body.startsWith(`${key}.`))
    // A message comes again until it is done; the next never before.
    expect(mine).toEqual([...mine].sort((x, y) => Number(x.slice(2)) - Number(y.slice(2))))
  }
}, 60_000)
