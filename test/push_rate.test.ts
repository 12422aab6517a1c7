/** A rate counts from the last call, whoever made it: neither a restart nor a new subscription waits for an interval that nobody owes. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { defaultSubscription } from '../src/model/index.ts'
import { createPush, newSecret, type Push } from '../src/push/index.ts'
import { type Bench, brokersOn, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { type Sink, startSink } from './support/sink.ts'

let bench: Bench
let broker: Broker
let sink: Sink
let push: Push

const started = (): Push => {
  const made = createPush({ broker, allowPrivate: true, version: 'test', log: () => {} })
  made.start()
  return made
}

beforeAll(async () => {
  bench = await brokersOn(1, 6)
  broker = bench.brokers[0] as Broker
  sink = await startSink()
  push = started()
})
afterAll(async () => {
  await push.stop(500)
  await bench.stop()
  await sink.close()
})

async function subscribed(queue: string): Promise<{ id: string; number: number; calledMs(): Promise<number | null> }> {
  await broker.admin.putQueue(queue, {})
  const settings = { ...defaultSubscription, url: sink.url, rate: { count: 3, perMs: 3_600_000 } }
  const { id } = await broker.admin.createSubscription({ queue }, settings, newSecret())
  const { number } = await broker.desk.find(id)
  return { id, number, calledMs: async () => (await broker.desk.load([number]))[0]?.calledMs ?? null }
}

test('a new subscription calls at once; after a restart or enabling the interval goes on from the last call', async () => {
  const { id, calledMs } = await subscribed('slow')
  expect(await calledMs()).toBeNull()
  await send(broker, 'slow', '1', '2', '3')
  await eventually(() => sink.hits.length === 1)
  // In the log before anybody else may deliver.
  await push.stop(500)
  expect(await calledMs()).not.toBeNull()
  push = started()
  await eventually(() => push.webhooks().length === 1)
  await broker.admin.disableSubscription(id)
  await eventually(() => push.webhooks().length === 0)
  await broker.admin.enableSubscription(id)
  await eventually(() => push.webhooks().length === 1)
  expect(sink.hits).toHaveLength(1)
  // As if twenty minutes had gone by while nobody delivered.
  await push.stop(500)
  await bench.db.sql`update postern.attempts set at = at - interval '20 minutes'`
  push = started()
  await eventually(() => sink.hits.length === 2)
  await push.stop(500)
  expect(await calledMs()).toBeLessThan(20 * 60_000)
  expect(sink.hits).toHaveLength(2)
}, 30_000)

test('who inherits from a gateway that was killed waits one interval, for nobody knows what it had under way', async () => {
  const { id, number } = await subscribed('crashed')
  await push.stop(500)
  await bench.db.sql`insert into postern.gateways (id, alive_until) values ('dead', now() - interval '1 second')`
  await bench.db.sql`update postern.subscriptions set owner = case when name = ${id} then 'dead' end`
  const { taken, inherited } = await broker.desk.claim(5_000, true)
  expect(taken).toContain(number)
  expect(inherited).toEqual([number])
  await broker.desk.retire()
  await bench.db.sql`update postern.subscriptions set owner = 'dead' where name = ${id}`
  const before = sink.hits.length
  await send(broker, 'crashed', 'x')
  push = started()
  await eventually(() => push.webhooks().some(({ subscription }) => subscription === id), 15_000)
  // The next gateway, which is handed over to, finds that nobody has called at all.
  expect(sink.hits).toHaveLength(before)
  await push.stop(500)
  expect(sink.hits).toHaveLength(before)
  push = started()
  await eventually(() => sink.hits.length === before + 1)
}, 40_000)

test('the last call is the last to begin, not to end, and no test', async () => {
  const { number, calledMs } = await subscribed('order')
  const logged = (agoS: number, message: number) =>
    bench.db
      .sql`insert into postern.attempts (subscription_id, message_id, attempt, at, succeeded, duration_ms, request_headers, response_headers, response_body)
      values (${number}, ${message}, 1, now() - ${agoS} * interval '1 s', true, 1, '{}', '{}', '')`
  await logged(1_000, 1)
  await logged(2_000, 2)
  await logged(1, 0)
  const ms = (await calledMs()) ?? 0
  expect(ms).toBeGreaterThanOrEqual(1_000_000)
  expect(ms).toBeLessThan(1_500_000)
  // A clock that runs ahead is not waited for.
  await logged(-3_600, 3)
  expect(await calledMs()).toBe(0)
})
