/** What becomes of calls under way when their gateway is no longer to deliver for the subscription. */
import type { ServerResponse } from 'node:http'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { defaultSubscription } from '../src/model/index.ts'
import { createPush, newSecret, type Push } from '../src/push/index.ts'
import { type Bench, brokersOn, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { type Sink, startSink } from './support/sink.ts'

let bench: Bench
let broker: Broker
let push: Push
const sinks: Sink[] = []

beforeAll(async () => {
  bench = await brokersOn(1, 6)
  broker = bench.brokers[0] as Broker
  push = createPush({ broker, allowPrivate: true, version: 'test', log: () => {} })
  push.start()
})
afterAll(async () => {
  await push.stop(500)
  await bench.stop()
  await Promise.all(sinks.map((sink) => sink.close()))
})

/** A call under way, for which the endpoint has yet to find an answer. */
async function calling(queue: string): Promise<{ id: string; response: ServerResponse; isBroken(): boolean }> {
  let response: ServerResponse | undefined
  let broken = false
  const sink = await startSink((_hit, given) => {
    response = given
    given.once('close', () => {
      broken ||= !given.writableEnded
    })
  })
  sinks.push(sink)
  await broker.admin.putQueue(queue, {})
  const settings = { ...defaultSubscription, url: sink.url }
  const { id } = await broker.admin.createSubscription({ queue }, settings, newSecret())
  await send(broker, queue, 'x')
  return { id, response: await eventually(() => response), isBroken: () => broken }
}

const isDismissed = (id: string) => !push.webhooks().some(({ subscription }) => subscription === id)

// Found by the beat that compares, as it is now and then also when the change was announced.
test.each(['disabled', 'deleted'] as const)(
  'one that is found %s finishes what is under way',
  async (what) => {
    const queue = `found-${what}`
    const { id, response, isBroken } = await calling(queue)
    const { sql } = bench.db
    if (what === 'disabled')
      await sql`update postern.subscriptions set disabled = 'requested', owner = null, version = version + 1 where name = ${id}`
    else await sql`delete from postern.subscriptions where name = ${id}`
    await eventually(() => isDismissed(id), 15_000)
    response.writeHead(200).end()
    await eventually(async () => {
      const { counts } = await broker.admin.getQueue(queue)
      return counts.leased === 0 && counts
    })
    expect((await broker.admin.getQueue(queue)).counts).toMatchObject({ ready: 0, delayed: 0, dead: 0 })
    expect(isBroken()).toBe(false)
  },
  30_000,
)

test('one that somebody else owns breaks off what is under way, and so does one that was found disabled before', async () => {
  const { sql } = bench.db
  const taken = await calling('taken')
  const disabled = await calling('disabled-before')
  await broker.admin.disableSubscription(disabled.id)
  await eventually(() => isDismissed(disabled.id))
  await sql`insert into postern.gateways (id, alive_until) values ('other', now() + interval '1 minute')`
  await sql`update postern.subscriptions set owner = 'other', disabled = null, version = version + 1 where name in (${taken.id}, ${disabled.id})`
  await eventually(() => taken.isBroken() && disabled.isBroken(), 15_000)
}, 30_000)
