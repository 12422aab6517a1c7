/** What a message costs as things grow: queues, what stands in the queue, gateways (see `http.ts`), bodies. */
import { body as body200, fill, may, messageOf, once, type Place } from './place.ts'
import { turns } from './rivals/index.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const queueCounts = [1, 100, 1000, 10_000]
const backlogs = [0, 100_000, 1_000_000, 5_000_000]
const bodies = [100, 1000, 10_000, 100_000, 1_000_000]
/** So that a batch of large ones stays within what a gateway gathers. */
const mostBatchBytes = 4_000_000

export function growthParts(place: Place): Part[] {
  const group = (scenarios: Scenario[]): Part => ({
    title: 'messages per second',
    scenarios,
    latencies: [],
    ratios: [],
  })
  return [
    group(queueCounts.map((count) => overQueues(place, count))),
    group(backlogs.map((count) => onBacklog(place, count))),
    group(bodies.map((bytes) => withBodies(place, bytes))),
  ]
}

/** Sends, takes and settles `count` in a queue. */
async function cycle({ broker }: Place, queue: string, body: Buffer, count: number): Promise<number> {
  await broker.send(queue, Array(count).fill(messageOf(body)))
  const { signal } = new AbortController()
  const { messages } = await broker.receive(queue, { max: count, waitMs: 1000, leaseMs: null, signal })
  await broker.settle(
    messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
    may,
  )
  return messages.length
}

function overQueues(place: Place, count: number): Scenario {
  const names = Array.from({ length: count }, (_, n) => `growth-${count}-${n}`)
  const nameOf = turns(names)
  return {
    name: `growth  cycle 1 x 256, over ${count} queues`,
    apart: true,
    prepare: once(async () => {
      for (const name of names) await place.broker.admin.putQueue(name, {})
    }),
    run: (roundMs) => calling({ callers: 256, call: () => cycle(place, nameOf(), body200, 1) }, roundMs),
  }
}

function onBacklog(place: Place, count: number): Scenario {
  const queue = `growth-backlog-${count}`
  return {
    name: `growth  cycle 100 x 4, ${count} ready`,
    apart: true,
    prepare: once(async () => {
      await place.broker.admin.putQueue(queue, {})
      await fill(place.broker, queue, count)
    }),
    run: (roundMs) => calling({ callers: 4, call: () => cycle(place, queue, body200, 100) }, roundMs),
  }
}

/** Bytes that do not compress. */
function withBodies(place: Place, bytes: number): Scenario {
  const body = Buffer.from(Array.from({ length: bytes }, () => Math.floor(Math.random() * 256)))
  const batch = Math.max(1, Math.min(100, Math.floor(mostBatchBytes / 4 / bytes)))
  return {
    name: `growth  cycle ${batch} x 4, bodies of ${bytes} B`,
    apart: true,
    prepare: once(() => place.broker.admin.putQueue('growth-bodies', {})),
    run: (roundMs) => calling({ callers: 4, call: () => cycle(place, 'growth-bodies', body, batch) }, roundMs),
  }
}
