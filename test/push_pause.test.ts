/** A queue that is paused is paused for webhooks too: what was leased ahead for a fast endpoint is not sent any more. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { defaultSubscription } from '../src/model/index.ts'
import { createPush, newSecret, type Push } from '../src/push/index.ts'
import { type Bench, brokersOn, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { type Sink, slowly, startSink } from './support/sink.ts'

let bench: Bench
let a: Broker
let b: Broker
let push: Push
let sink: Sink

beforeAll(async () => {
  bench = await brokersOn(2, 6)
  ;[a, b] = bench.brokers as [Broker, Broker]
  sink = await startSink(slowly(3))
  push = createPush({ broker: a, allowPrivate: true, version: 'test', log: () => {} })
  push.start()
})
afterAll(async () => {
  await push.stop(500)
  await bench.stop()
  await sink.close()
})

test('after the answer to a pause at most what was under way arrives, and all of it once it is resumed', async () => {
  await a.admin.putQueue('paused', {})
  const settings = { ...defaultSubscription, url: sink.url, concurrency: 1 }
  await a.admin.createSubscription({ queue: 'paused' }, settings, newSecret())
  const all = Array.from({ length: 300 }, (_, n) => `${n}`)
  await send(a, 'paused', ...all)
  for (const enough of [30, 60, 90]) {
    await eventually(() => sink.hits.length >= enough)
    await a.admin.putQueue('paused', { paused: true })
    const arrived = sink.hits.length
    await eventually(async () => (await a.admin.getQueue('paused')).counts.leased === 0)
    expect(sink.hits.length).toBeLessThanOrEqual(arrived + 1)
    await a.admin.putQueue('paused', { paused: false })
  }
  await eventually(() => sink.hits.length >= all.length, 20_000)
  expect(sink.bodies().sort()).toEqual([...all].sort())
}, 40_000)

test('a gateway hears of the queues that it changes before the answer, and of those that others change', async () => {
  const heard: [string, number][] = []
  const on = (name: string) => ({ changed() {}, free() {}, queueChanged: (id: number) => void heard.push([name, id]) })
  b.desk.listen(on('b'))
  await b.admin.putQueue('told', {})
  const [row] = await bench.db.sql<{ id: number }[]>`select id from postern.queues where name = 'told'`
  const id = row?.id ?? 0
  expect(heard).toEqual([['b', id]])
  heard.length = 0
  await a.admin.putQueue('told', { paused: true })
  await eventually(() => heard.length > 0)
  expect(heard[0]).toEqual(['b', id])
})
