/** Whether memory stays flat: one gateway under a steady load of sends, receives, retries and webhooks for a quarter of an hour. */
import type { Memory } from './child.ts'
import { type Client, clientOf, startGateway } from './gateway.ts'
import { residentBytes } from './meter.ts'
import { body, type Place, sleep } from './place.ts'
import { median, type Part, type Table } from './rounds.ts'
import { startSink } from './sink.ts'

const perSecond = 500
const pushedPerSecond = 100
const sampleMs = 30_000
/** One of so many is given back once. */
const nackEvery = 50
const tickMs = 20

export const soakName = 'soak  resident memory, last third over first after warm-up'

export const soakPart =
  (minutes: number) =>
  (place: Place): Part => ({
    title: '',
    scenarios: [],
    latencies: [],
    studies: [{ name: 'soak  memory under a steady load', apart: true, measure: () => measure(place, minutes) }],
    ratios: [],
  })

type Sample = { minute: number; resident: number; heap: number; external: number; sent: number; done: number }

async function measure(place: Place, minutes: number): Promise<Table> {
  const gateway = await startGateway(place)
  const client = clientOf(gateway.url, 64)
  const sink = await startSink()
  place.closing.push(() => sink.stop())
  for (const name of ['soak', 'soak-push']) await client.putQueue(name)
  const subscription = JSON.stringify({ queue: 'soak-push', url: sink.url })
  await client.call('POST', '/v1/subscriptions', subscription, 'application/json')
  const load = startLoad(client)
  const samples: Sample[] = []
  const startMs = performance.now()
  const untilMs = startMs + minutes * 60_000
  while (performance.now() < untilMs) {
    await sleep(Math.min(sampleMs, untilMs - performance.now()))
    const { rss, heapUsed, external } = await gateway.ask<Memory>('memory')
    const minute = (performance.now() - startMs) / 60_000
    samples.push({
      minute,
      resident: residentBytes(gateway.pid) ?? rss,
      heap: heapUsed,
      external,
      ...load.counts(),
    })
  }
  await load.stop()
  await client.close()
  await gateway.stop()
  return tableOf(minutes, samples)
}

function startLoad(client: Client): { counts(): { sent: number; done: number }; stop(): Promise<unknown> } {
  let [over, sent, done] = [false, 0, 0]
  const isOver = (): boolean => over
  async function send(): Promise<void> {
    await client.send('soak', body)
    sent++
  }
  async function takeAll(): Promise<void> {
    while (!over) {
      const count = await take(client)
      done += count
    }
  }
  const working = [
    steadily(perSecond, isOver, send),
    steadily(pushedPerSecond, isOver, () => client.send('soak-push', body)),
    ...Array.from({ length: 4 }, takeAll),
  ]
  return {
    counts: () => ({ sent, done }),
    async stop() {
      over = true
      await Promise.all(working)
    },
  }
}

function tableOf(minutes: number, samples: readonly Sample[]): Table {
  const steady = samples.slice(Math.ceil(samples.length / 6)).map(({ resident }) => resident)
  const third = Math.max(1, Math.floor(steady.length / 3))
  const share = median(steady.slice(-third)) / median(steady.slice(0, third))
  const load = `${perSecond} + ${pushedPerSecond} messages/s`
  return {
    title: `memory over ${minutes} minutes at ${load}; last third to first: ${share.toFixed(2)}`,
    columns: ['minute', 'resident MB', 'heap MB', 'external MB', 'sent', 'settled'],
    rows: samples.map(({ minute, resident, heap, external, sent, done }) => [
      minute.toFixed(1),
      ...[resident, heap, external].map((bytes) => bytes / 2 ** 20),
      sent,
      done,
    ]),
    values: { [soakName]: share },
  }
}

/** So many a second, whether or not those before are answered. */
async function steadily(rate: number, over: () => boolean, call: () => Promise<unknown>): Promise<void> {
  const startMs = performance.now()
  const open = new Set<Promise<unknown>>()
  for (let made = 0; !over(); await sleep(tickMs))
    for (; made < ((performance.now() - startMs) / 1000) * rate; made++) {
      const calling = call().finally(() => open.delete(calling))
      open.add(calling)
    }
  await Promise.all(open)
}

let taken = 0

async function take(client: Client): Promise<number> {
  const received = await client.receive('soak', 20, 1)
  const back = received.filter(({ attempt }) => ++taken % nackEvery === 0 && attempt === 1)
  await client.settle(
    'soak',
    received.filter((each) => !back.includes(each)),
  )
  for (const { receipt } of back) await client.call('POST', `/v1/leases/${receipt}/nack?delay=2s`)
  return received.length - back.length
}
