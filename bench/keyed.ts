/** Order per key and fair shares: cycles over many keys and over a few hot ones, and what a quiet tenant waits beside a loud one. */
import type { Broker } from '#src/broker/index.ts'
import type { NewMessage, QueueSettings } from '#src/model/index.ts'
import { may, message, type Place, sleep } from './place.ts'
import type { Latency, Part, Scenario } from './rounds.ts'

const batch = 100
const mostBehind = 20_000
const loudMessages = 20_000
const quietMessages = 200

export function keyedPart({ broker }: Place): Part {
  const flows: [name: string, keys: number, settings: Partial<QueueSettings>][] = [
    ['keyed  cycle, not keyed', 100_000, {}],
    ['keyed  cycle, 100,000 keys', 100_000, { order: 'keyed' }],
    ['keyed  cycle, 1,000 keys', 1_000, { order: 'keyed' }],
    ['keyed  cycle, 8 hot keys', 8, { order: 'keyed' }],
    ['keyed  cycle, fair, 8 keys', 8, { fair: true }],
  ]
  return {
    title: 'messages per second, batch 100',
    scenarios: flows.map(([name, keys, settings], at) => cycles(broker, name, `keyed${at}`, keys, settings)),
    latencies: [
      quiet(broker, 'keyed  a quiet tenant beside a loud one, not fair', 'unfair', {}),
      quiet(broker, 'keyed  a quiet tenant beside a loud one, fair', 'fair', { fair: true }),
    ],
    ratios: [
      ['keyed  cycle, 100,000 keys', 'keyed  cycle, not keyed'],
      ['keyed  cycle, 8 hot keys', 'keyed  cycle, not keyed'],
      ['keyed  cycle, fair, 8 keys', 'keyed  cycle, not keyed'],
      ['keyed  a quiet tenant beside a loud one, fair', 'keyed  a quiet tenant beside a loud one, not fair'],
    ],
  }
}

const keyOf = (keys: number): string => `k${Math.floor(Math.random() * keys)}`

/** Eight producers, sixteen consumers; producers wait when they are far ahead. */
function cycles(broker: Broker, name: string, queue: string, keys: number, settings: Partial<QueueSettings>): Scenario {
  return {
    name,
    async prepare() {
      await broker.admin.putQueue(queue, settings)
      await broker.admin.purgeQueue(queue, ['ready', 'delayed', 'leased'])
    },
    async run(roundMs) {
      const startMs = performance.now()
      const isOver = (): boolean => performance.now() - startMs > roundMs
      let sent = 0
      let done = 0
      async function produce(): Promise<void> {
        while (!isOver()) {
          if (sent - done > mostBehind) await sleep(5)
          else {
            const some = Array.from({ length: batch }, (): NewMessage => ({ ...message, key: keyOf(keys) }))
            await broker.send(queue, some)
            sent += batch
          }
        }
      }
      async function consume(): Promise<void> {
        while (!isOver()) {
          const some = await takeSome(broker, queue, batch)
          done += some
        }
      }
      await Promise.all([...Array.from({ length: 8 }, produce), ...Array.from({ length: 16 }, consume)])
      return (done / (performance.now() - startMs)) * 1000
    },
  }
}

async function takeSome(broker: Broker, queue: string, max: number): Promise<number> {
  const { signal } = new AbortController()
  const { messages } = await broker.receive(queue, { max, waitMs: 200, leaseMs: null, signal })
  const acks = messages.map(({ receipt }) => ({ action: 'ack' as const, receipt }))
  if (acks.length > 0) await broker.settle(acks, may)
  return acks.length
}

/** From the send of each quiet message to its receipt, while the loud tenant's backlog is worked off by one slow consumer. */
function quiet(broker: Broker, name: string, queue: string, settings: Partial<QueueSettings>): Latency {
  return {
    name,
    async measure() {
      await broker.admin.putQueue(queue, settings)
      const loud = Array.from({ length: 500 }, (): NewMessage => ({ ...message, key: 'loud' }))
      for (let n = 0; n < loudMessages; n += loud.length) await broker.send(queue, loud)
      const sentMs: number[] = []
      const took: number[] = []
      const consuming = (async () => {
        const { signal } = new AbortController()
        while (took.length < quietMessages) {
          const { messages } = await broker.receive(queue, { max: 20, waitMs: 200, leaseMs: null, signal })
          for (const { key, body } of messages)
            if (key === 'quiet') took.push(performance.now() - (sentMs[Number(body)] ?? 0))
          const acks = messages.map(({ receipt }) => ({ action: 'ack' as const, receipt }))
          if (acks.length > 0) await broker.settle(acks, may)
        }
      })()
      for (let n = 0; n < quietMessages; n++) {
        // Before it is sent: it may arrive before the send is answered.
        sentMs[n] = performance.now()
        await broker.send(queue, [{ ...message, key: 'quiet', body: Buffer.from(`${n}`) }])
        await sleep(10)
      }
      await consuming
      await broker.admin.purgeQueue(queue, ['ready', 'leased'])
      return took
    },
  }
}
