/** What a lease statement leaves for the upkeep: one row for all its queues, and what has to hold for each message in it all the same. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import type { Delivery } from '../src/model/index.ts'
import { connect, hasLeases } from '../src/store/index.ts'
import { ack, type Bench, bodies, brokersOn, message, receive, send, settle } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

let bench: Bench
let a: Broker
let b: Broker
const queues = ['one', 'two', 'three']

beforeEach(async () => {
  bench = await brokersOn(2)
  ;[a, b] = bench.brokers as [Broker, Broker]
  for (const queue of queues) {
    await a.admin.putQueue(queue, {})
    await send(a, queue, message(`${queue} 1`), message(`${queue} 2`, { priority: 9 }))
  }
})
afterEach(() => bench.stop())

/** All that is ready in all queues, leased by one statement. */
async function leaseAll(more: { leaseMs?: number; waitMs?: number } = {}): Promise<Delivery[]> {
  return (await Promise.all(queues.map((queue) => receive(a, queue, 10, more)))).flat()
}
const rows = () =>
  bench.db.sql<{ queue_id: number; queues: number[] | null; messages: number }[]>`
    select queue_id, queue_ids as queues, cardinality(positions) as messages from postern.leases order by expires_at, queue_id, lane`
const both = (queue: string) => [`${queue} 2`, `${queue} 1`]
async function idOf(name: string): Promise<{ id: number }> {
  const [row] = await bench.db.sql<{ id: number }[]>`select id from postern.queues where name = ${name}`
  return row ?? { id: 0 }
}
const gateway = (protocol: number, ageS: number) =>
  bench.db.sql`insert into postern.gateways (id, alive_until, leaving, protocol)
    values ('other', now() - ${ageS} * interval '1 s', true, ${protocol})`

test('messages of several queues share a row, and each comes back in its queue when the lease runs out', async () => {
  const got = await leaseAll({ leaseMs: 1000 })
  expect(bodies(got)).toEqual(queues.flatMap(both))
  expect(await rows()).toMatchObject([{ queue_id: 0, messages: 6 }])
  for (const queue of queues) {
    const again: Delivery[] = []
    await eventually(async () => {
      again.push(...(await receive(b, queue, 10, { waitMs: 1000 })))
      return again.length === 2
    })
    expect(bodies(again)).toEqual(both(queue))
    expect(again.map(({ attempt }) => attempt)).toEqual([2, 2])
    await ack(b, ...again)
  }
})

test('of a shared row only what is still held comes back: not what was acked, extended or leased anew', async () => {
  const got = await leaseAll({ leaseMs: 1000 })
  const [acked, freed, kept, kept2, ...left] = got as [Delivery, Delivery, Delivery, Delivery, ...Delivery[]]
  await ack(a, acked)
  expect(await settle(a, { action: 'nack', receipt: freed.receipt, delayMs: 0 })).toEqual(['nacked'])
  const [anew] = await receive(b, 'one', 10, { leaseMs: 60_000, waitMs: 5000 })
  const extended = [kept, kept2].map(({ receipt }) => ({ action: 'extend' as const, receipt, leaseMs: 60_000 }))
  expect(await settle(a, ...extended)).toEqual(['extended', 'extended'])
  expect((await rows()).filter(({ queue_id }) => queue_id === 0)).toMatchObject([{ messages: 6 }, { messages: 2 }])
  const back = await receive(b, 'three', 10, { waitMs: 5000 })
  await eventually(async () => {
    if (back.length < left.length) back.push(...(await receive(b, 'three', 10)))
    return back.length === left.length
  })
  expect(bodies(back).sort()).toEqual(bodies(left).sort())
  expect([...(await receive(b, 'one', 10)), ...(await receive(b, 'two', 10))]).toEqual([])
  expect(await ack(a, kept, kept2)).toEqual(['acked', 'acked'])
  expect(await ack(b, ...(anew ? [anew] : []))).toEqual(['acked'])
})

test('messages handed over to waiting receivers of several queues share a row, and come back when it runs out', async () => {
  for (const queue of queues) await a.admin.purgeQueue(queue, ['ready'])
  const waiting = queues.map((queue) => receive(a, queue, 1, { waitMs: 20_000, leaseMs: 1000 }))
  // Whoever has looked in vain is handed what is sent.
  await new Promise((resolve) => setTimeout(resolve, 300))
  await Promise.all(queues.map((queue) => send(a, queue, `${queue} 3`)))
  expect(bodies((await Promise.all(waiting)).flat())).toEqual(queues.map((queue) => `${queue} 3`))
  expect(await rows()).toMatchObject([{ queue_id: 0, messages: 3 }])
  for (const queue of queues) expect(bodies(await receive(b, queue, 1, { waitMs: 10_000 }))).toEqual([`${queue} 3`])
})

test('a statement that leases from a queue with max_leased leaves a row for each queue, and the bound holds', async () => {
  await a.admin.putQueue('two', { maxLeased: 1 })
  const got = await leaseAll()
  expect(bodies(got)).toEqual([...both('one'), 'two 2', ...both('three')])
  expect(await rows()).toMatchObject(Array.from({ length: 5 }, () => ({ queues: null, messages: 1 })))
  expect(await receive(b, 'two', 10)).toEqual([])
  const [held] = got.filter(({ body }) => body.toString() === 'two 2')
  await ack(a, ...(held ? [held] : []))
  expect(bodies(await receive(b, 'two', 10))).toEqual(['two 1'])
})

test('a bound that a queue gets counts what it has leased in shared rows, for as long as it is leased', async () => {
  const got = await leaseAll({ leaseMs: 2000 })
  const ofTwo = got.filter(({ body }) => body.toString().startsWith('two'))
  await a.admin.putQueue('two', { maxLeased: 2 })
  await send(b, 'two', 'two 3', 'two 4')
  expect(await receive(b, 'two', 10)).toEqual([])
  const longer = ofTwo.map(({ receipt }) => ({ action: 'extend' as const, receipt, leaseMs: 60_000 }))
  expect(await settle(a, ...longer)).toEqual(['extended', 'extended'])
  // Over the first end of the leases.
  expect(await receive(b, 'two', 10, { waitMs: 3000 })).toEqual([])
  await ack(a, ...ofTwo.slice(0, 1))
  expect(bodies(await receive(b, 'two', 10, { waitMs: 5000 }))).toEqual(['two 3'])
})

test('nothing is shared while a gateway is there that would not find it, nor until it has been silent for a while', async () => {
  await gateway(1, 5)
  await leaseAll()
  expect((await rows()).map(({ queues }) => queues)).toEqual(Array.from({ length: 6 }, () => null))
})

test('one that has been silent for longer is not waited for, and one that knows shared rows is no hindrance', async () => {
  await gateway(1, 15)
  await leaseAll()
  expect(await rows()).toMatchObject([{ queue_id: 0 }])
  await bench.db.sql`delete from postern.leases`
  await bench.db
    .sql`update postern.gateways set protocol = 2, alive_until = now() + interval '1 minute' where id = 'other'`
  for (const queue of queues) await send(a, queue, 'more')
  await leaseAll()
  expect(await rows()).toMatchObject([{ queue_id: 0 }])
})

test('a queue whose only leases are in a shared row has leases, and another has none', async () => {
  await leaseAll()
  await a.admin.putQueue('other', {})
  const db = connect({ databaseUrl: bench.db.url, pool: 3, prepare: true })
  expect(await hasLeases(db, (await idOf('two')).id)).toBe(true)
  expect(await hasLeases(db, (await idOf('other')).id)).toBe(false)
  await db.close()
})

test('nothing is handed over where something is ready before it, though it is in other queues of the same statement', async () => {
  for (const queue of queues) await a.admin.purgeQueue(queue, ['ready'])
  const waiting = queues.map((queue) => receive(a, queue, 1, { waitMs: 20_000 }))
  await new Promise((resolve) => setTimeout(resolve, 300))
  // Nobody has heard of it.
  await bench.db.sql`
    insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, body)
    select ${(await idOf('two')).id}, 9, n, n, now(), now() + interval '1 hour', 'text/plain', 'unheard'::bytea
    from nextval('postern.message_position') n`
  await Promise.all(queues.map((queue) => send(a, queue, `${queue} 3`)))
  expect(bodies((await Promise.all(waiting)).flat())).toEqual(['one 3', 'unheard', 'three 3'])
})
