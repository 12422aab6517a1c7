/**
 * From before the send to the arrival at a receiver that waits, at 200 messages a second whether or not those before have arrived:
 * Postern in process, over HTTP by long poll and by webhook, and its rivals. All clocks are this machine's.
 */
import { clientOf, sharedGateway } from './gateway.ts'
import { may, messageOf, once, type Place, sleep } from './place.ts'
import { type Courier, graphileCourier, pgBossCourier, rabbitCouriers } from './rivals/couriers.ts'
import { findRabbit } from './rivals/index.ts'
import type { Latency, Part } from './rounds.ts'
import { numberHeader, sharedClockMs, startSink } from './sink.ts'

const everyMs = 5
const counted = 3000
/** The first ones dial and compile. */
const warmUp = 200
const arrivalDeadlineMs = 15_000
const receivers = 8

export const latencyName = (who: string): string => `latency  200/s, send to arrival, ${who}`
export const pullName = latencyName('Postern over HTTP, long poll')
export const pushName = latencyName('Postern over HTTP, webhook')

export const latencyPart = (place: Place): Part =>
  partOf(place, [inProcess, pgBossCourier, graphileCourier, ...(findRabbit() === null ? [] : rabbitCouriers)])
export const httpLatencyPart = (place: Place): Part =>
  partOf(place, [pull('latency-pull', 'Postern over HTTP, long poll'), webhook])

const partOf = (place: Place, couriers: readonly Courier[]): Part => ({
  title: '',
  scenarios: [],
  latencies: couriers.map((courier) => latencyOf(place, courier)),
  ratios: [],
})

const latencyOf = (place: Place, courier: Courier): Latency => ({
  name: latencyName(courier.name),
  measure: () => timesOf(place, courier, counted),
})

/** Milliseconds, one for each of `count` messages. */
export async function timesOf(place: Place, courier: Courier, count: number): Promise<number[]> {
  const arrivedMs = new Map<number, number>()
  const arrived = (number: number, atMs = sharedClockMs()): void => {
    if (!arrivedMs.has(number)) arrivedMs.set(number, atMs)
  }
  const opened = await courier.open(place, arrived)
  const closing = once(() => opened.close())
  place.closing.push(closing)
  const sentMs: number[] = []
  const sending: Promise<unknown>[] = []
  const startMs = sharedClockMs()
  for (let number = 0; number < warmUp + count; number++) {
    await sleep(Math.max(0, startMs + number * everyMs - sharedClockMs()))
    sentMs.push(sharedClockMs())
    sending.push(opened.send(number))
  }
  await Promise.all(sending)
  const untilMs = sharedClockMs() + arrivalDeadlineMs
  for (; arrivedMs.size < sentMs.length && sharedClockMs() < untilMs; await sleep(20)) await opened.collect?.()
  await closing()
  if (arrivedMs.size < sentMs.length) throw new Error(`${courier.name}: ${arrivedMs.size} of ${sentMs.length} arrived`)
  return sentMs.map((ms, number) => (arrivedMs.get(number) ?? Number.NaN) - ms).slice(warmUp)
}

const bodyOf = (number: number): string => String(number).padEnd(200, ' ')

const inProcess: Courier = {
  name: 'Postern in process',
  async open({ broker }, arrived) {
    await broker.admin.putQueue('latency', {})
    const closed = new AbortController()
    const receiving = Array.from({ length: receivers }, async () => {
      while (!closed.signal.aborted) {
        const options = { max: 10, waitMs: 5000, leaseMs: null, signal: closed.signal }
        const { messages } = await broker.receive('latency', options).catch(() => ({ messages: [] }))
        for (const { body } of messages) arrived(Number(body))
        const acks = messages.map(({ receipt }) => ({ action: 'ack' as const, receipt }))
        if (acks.length > 0) await broker.settle(acks, may)
      }
    })
    return {
      send: (number) => broker.send('latency', [messageOf(Buffer.from(bodyOf(number)))]),
      async close() {
        closed.abort()
        await Promise.all(receiving)
      },
    }
  },
}

/** By long polls to the gateway that all parts share, from this process. */
export const pull = (queue: string, name: string): Courier => ({
  name,
  async open(place, arrived) {
    const gateway = await sharedGateway(place)
    const client = clientOf(gateway.url, 64)
    await client.putQueue(queue)
    let over = false
    const receiving = Array.from({ length: receivers }, async () => {
      while (!over) {
        const received = await client.receive(queue, 10, 1)
        for (const { body } of received) arrived(Number(body))
        await client.settle(queue, received)
      }
    })
    return {
      send: (number) => client.send(queue, bodyOf(number)),
      async close() {
        over = true
        await Promise.all(receiving)
        await client.close()
      },
    }
  },
})

const webhook: Courier = {
  name: 'Postern over HTTP, webhook',
  async open(place, arrived) {
    const gateway = await sharedGateway(place)
    const sink = await startSink()
    const client = clientOf(gateway.url, 64)
    await client.putQueue('latency-push')
    const subscription = { queue: 'latency-push', url: sink.url }
    const created = await client.call('POST', '/v1/subscriptions', JSON.stringify(subscription), 'application/json')
    const { id } = JSON.parse(created) as { id: string }
    // Only a gateway that owns it delivers; it looks for what is new.
    await sleep(3000)
    return {
      send: (number) =>
        client.call('POST', '/v1/queues/latency-push/messages', bodyOf(number), 'text/plain', {
          [`postern-header-${numberHeader}`]: String(number),
        }),
      async collect() {
        for (const [number, atMs] of await sink.newArrivals()) arrived(number, atMs)
      },
      async close() {
        await client.call('DELETE', `/v1/subscriptions/${id}`)
        await client.close()
        await sink.stop()
      },
    }
  },
}
