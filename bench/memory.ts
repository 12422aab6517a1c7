/** What a gateway holds for each queue and each subscription it has had to do with, and what so many cost Postgres while nothing happens. */
import type { Child, Memory } from './child.ts'
import { clientOf, startGateway } from './gateway.ts'
import { residentBytes } from './meter.ts'
import { body, type Place, sleep } from './place.ts'
import type { Cell, Part, Table } from './rounds.ts'
import { startSink } from './sink.ts'

const queues = 10_000
const subscriptions = 1000
const callers = 64
const idleMs = 10_000

export const memoryPart = (place: Place): Part => ({
  title: '',
  scenarios: [],
  latencies: [],
  studies: [{ name: 'memory  for each queue and subscription', measure: () => measure(place) }],
  ratios: [],
})

async function measure(place: Place): Promise<Table> {
  const gateway = await startGateway(place)
  const client = clientOf(gateway.url, callers)
  const sink = await startSink()
  place.closing.push(() => sink.stop())
  const rows: Cell[][] = []
  let held = await heldBy(gateway)
  rows.push(['fresh gateway', held.resident / 2 ** 20, null, null, ...(await idleCost(place, gateway))])

  async function step(what: string, count: number, each: (number: number) => Promise<unknown>): Promise<void> {
    await spread(count, each)
    const now = await heldBy(gateway)
    const kilobytes = (from: number, to: number): number => (to - from) / count / 1024
    const cost = await idleCost(place, gateway)
    rows.push([
      what,
      now.resident / 2 ** 20,
      kilobytes(held.resident, now.resident),
      kilobytes(held.heap, now.heap),
      ...cost,
    ])
    held = now
  }
  await step(`${queues} queues, each put, sent to and drained`, queues, async (number) => {
    const name = `memory-${number}`
    await client.call('PUT', `/v1/queues/${name}`)
    await client.send(name, body)
    await client.settle(name, await client.receive(name, 1, 1))
  })
  await step(`${subscriptions} subscriptions`, subscriptions, (number) =>
    client.call(
      'POST',
      '/v1/subscriptions',
      JSON.stringify({ queue: `memory-${number}`, url: `${sink.url}?${number}` }),
      'application/json',
    ),
  )
  await step('one delivery for each of them', subscriptions, (number) => client.send(`memory-${number}`, body))
  await client.close()
  await gateway.stop()
  return {
    title: 'memory of one gateway',
    columns: ['after', 'resident MB', 'KB each', 'heap KB each', 'idle Postgres CPU ms/s', 'idle gateway CPU ms/s'],
    rows,
    values: {},
  }
}

async function spread(count: number, each: (number: number) => Promise<unknown>): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (next < count) await each(next++)
    }),
  )
}

async function heldBy(gateway: Child): Promise<{ resident: number; heap: number }> {
  await sleep(2000)
  const { rss, heapUsed } = await gateway.ask<Memory>('memory')
  return { resident: residentBytes(gateway.pid) ?? rss, heap: heapUsed }
}

/** Milliseconds of CPU a second: of Postgres, of the gateway. When autovacuum has nothing left of what went before. */
async function idleCost(place: Place, gateway: Child): Promise<[number | null, number | null]> {
  await place.sql`vacuum analyze`
  await place.sql`checkpoint`
  const from = await place.meter.read([gateway.pid])
  await sleep(idleMs)
  const to = await place.meter.read([gateway.pid])
  const each = (a: number | null, b: number | null): number | null =>
    a === null || b === null ? null : ((b - a) * 1e6) / idleMs
  return [each(from.databaseS, to.databaseS), each(from.servingS, to.servingS)]
}
