/**
 * Webhooks per second to an endpoint in another process, from a full queue, beside a loop of bare undici POSTs to the same endpoint;
 * and how long a message takes to an idle one. Both are counted where they arrive.
 */
import { Agent, request } from 'undici'
import type { Broker } from '#src/broker/index.ts'
import { defaultSubscription } from '#src/model/index.ts'
import { createPush, newSecret } from '#src/push/index.ts'
import { body, closeAll, fill, messageOf, once, type Place, sleep, startBroker } from './place.ts'
import type { Latency, Part, Scenario } from './rounds.ts'
import { numberHeader, type Sink, sharedClockMs, startSink } from './sink.ts'

/** More than any round takes from the queue. */
const backlogPerSecond = 12_000
const backlogAheadS = 2
const warmUpMs = 300
const latencyCount = 1_000
const latencyEveryMs = 5
/** The first ones dial. */
const warmUpCount = 50

export const pushNames = (concurrency: number) => ({
  bare: `push  POSTs to a sink, ${concurrency} at once, bare undici`,
  webhooks: `push  POSTs to a sink, ${concurrency} at once, Postern`,
})

export function pushPart(place: Place): Part {
  const { broker } = place
  const closing: Place['closing'] = []
  /** Nothing of it may be there when others are measured. */
  const close = () => closeAll(closing)
  place.closing.push(close)
  const started = once(async (): Promise<Sink> => {
    const sink = await startSink()
    const push = createPush({ broker, allowPrivate: true, version: 'bench', log: () => {} })
    push.start()
    closing.push(async () => {
      await push.stop(2000)
      await sink.stop()
    })
    return sink
  })
  const bare = (concurrency: number): Scenario => ({
    name: pushNames(concurrency).bare,
    prepare: started,
    run: async (roundMs) => await bareRate(await started(), concurrency, roundMs),
  })
  const webhooks = (concurrency: number): Scenario => {
    let feed: Feed | undefined
    return {
      name: pushNames(concurrency).webhooks,
      async prepare(roundMs) {
        const backlog = backlogPerSecond * (roundMs / 1000 + backlogAheadS)
        feed = await startFeed(broker, await started(), concurrency, backlog)
      },
      run: async (roundMs) => await (await started()).rate(roundMs),
      tidy: async () => feed?.end(),
    }
  }
  return {
    title: 'requests per second at the endpoint',
    scenarios: [bare(10), webhooks(10), bare(100), webhooks(100)],
    latencies: latencies(place, started, closing),
    ratios: [10, 100].map((count): [string, string] => [webhooks(count).name, bare(count).name]),
    close,
  }
}

function latencies(place: Place, started: () => Promise<Sink>, closing: Place['closing']): Latency[] {
  const { broker } = place
  const peer = once(async () => {
    const other = await startBroker(place.databaseUrl)
    closing.push(() => other.stop(1000))
    return other
  })
  const latencyQueue = once(async () => {
    await broker.admin.putQueue('push-latency', {})
    const settings = { ...defaultSubscription, url: (await started()).url }
    await broker.admin.createSubscription({ queue: 'push-latency' }, settings, newSecret())
  })
  const through = (name: string, ready: () => Promise<unknown>, sender: () => Promise<Broker>) => ({
    name: `push  latency, ${name}`,
    async measure() {
      const sink = await started()
      await latencyQueue()
      await ready()
      const by = await sender()
      return await arrivalTimes(sink, async (number) => {
        await by.send('push-latency', [messageOf(body, { [numberHeader]: String(number) })])
      })
    },
  })
  return [
    { name: 'push  latency, bare undici POST', measure: async () => await bareLatency(await started()) },
    through('by its gateway, alone', started, async () => broker),
    // The order matters: from here on there is another gateway.
    through('by its gateway, beside another', peer, async () => broker),
    through('by another gateway', peer, peer),
  ]
}

type Feed = { end(): Promise<void> }

/** A full queue with a subscription that is under way. */
async function startFeed(broker: Broker, sink: Sink, concurrency: number, backlog: number): Promise<Feed> {
  const { admin } = broker
  const queue = 'push'
  await admin.putQueue(queue, {})
  await fill(broker, queue, backlog)
  const settings = { ...defaultSubscription, url: sink.url, concurrency }
  const { id } = await admin.createSubscription({ queue }, settings, newSecret())
  await sink.rate(warmUpMs)
  return {
    async end() {
      await admin.disableSubscription(id)
      const { ready } = (await admin.getQueue(queue)).counts
      if (ready === 0) throw new Error('The queue ran empty in the middle of a round.')
      while ((await admin.getQueue(queue)).counts.leased > 0) await sleep(20)
      await admin.deleteSubscription(id)
      await admin.deleteQueue(queue, true)
    },
  }
}

async function bareRate(sink: Sink, concurrency: number, roundMs: number): Promise<number> {
  const dispatcher = new Agent({ connections: concurrency, pipelining: 1 })
  let over = false
  const loops = Array.from({ length: concurrency }, async () => {
    while (!over) await barePost(sink.url, dispatcher, {})
  })
  const rate = await sink.rate(roundMs)
  over = true
  await Promise.all(loops)
  await dispatcher.close()
  return rate
}

async function barePost(url: string, dispatcher: Agent, headers: Record<string, string>): Promise<void> {
  const answer = await request(url, {
    dispatcher,
    method: 'POST',
    body,
    headers: { 'content-type': 'text/plain', ...headers },
  })
  await answer.body.dump()
}

async function bareLatency(sink: Sink): Promise<number[]> {
  const dispatcher = new Agent({ connections: 10, pipelining: 1 })
  const took = await arrivalTimes(sink, (number) => barePost(sink.url, dispatcher, { [numberHeader]: String(number) }))
  await dispatcher.close()
  return took
}

/** 200 a second, whether or not those before have arrived: milliseconds from before the send to the arrival. */
async function arrivalTimes(sink: Sink, send: (number: number) => Promise<void>): Promise<number[]> {
  const sentMs: number[] = []
  const sending: Promise<void>[] = []
  const startMs = sharedClockMs()
  for (let number = 0; number < latencyCount + warmUpCount; number++) {
    await sleep(Math.max(0, startMs + number * latencyEveryMs - sharedClockMs()))
    sentMs.push(sharedClockMs())
    sending.push(send(number))
  }
  await Promise.all(sending)
  const arrivedMs = await sink.arrivals(sentMs.length)
  return sentMs.map((ms, number) => (arrivedMs.get(number) ?? Number.NaN) - ms).slice(warmUpCount)
}
