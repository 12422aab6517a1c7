/** Cycles, sends and receives through the broker in this process: one message at a time by many callers, a hundred at a time by four. */
import type { NewMessage } from '../src/model/index.ts'
import { fill, may, message, once, type Place, sleep } from './place.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const hundred = Array.from({ length: 100 }, () => message)
const backlog = 150_000

export function queuesPart({ broker }: Place): Part {
  const made = once(async () => {
    for (const queue of ['send', 'full', 'cycle', 'latency']) await broker.admin.putQueue(queue, {})
  })
  async function refill(): Promise<void> {
    await made()
    await broker.admin.purgeQueue('full', ['ready', 'leased'])
    await fill(broker, 'full', backlog)
  }
  async function take(queue: string, max: number, waitMs: number): Promise<number> {
    const { messages } = await broker.receive(queue, {
      max,
      waitMs,
      leaseMs: null,
      signal: new AbortController().signal,
    })
    await broker.settle(
      messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
      may,
    )
    return messages.length
  }
  const send = (batch: NewMessage[]) => async () => (await broker.send('send', batch)).length
  const drain = (max: number) => () => take('full', max, 0)
  const cycle = (batch: NewMessage[]) => async () => {
    await broker.send('cycle', batch)
    return await take('cycle', batch.length, 1000)
  }
  const cell = (
    name: string,
    callers: number,
    call: () => Promise<number>,
    more: Partial<Scenario> = {},
  ): Scenario => ({
    name: `in process  ${name} x ${callers} callers`,
    prepare: made,
    run: (roundMs) => calling({ callers, call }, roundMs),
    ...more,
  })
  const purge = { tidy: () => broker.admin.purgeQueue('send', ['ready']) }

  /** Receiver waiting, one message at a time, 200 a second: from the send to the arrival. */
  async function latency(): Promise<number[]> {
    await made()
    const took: number[] = []
    for (let n = 0; n < 400; n++) {
      const waiting = broker.receive('latency', {
        max: 1,
        waitMs: 5000,
        leaseMs: null,
        signal: new AbortController().signal,
      })
      await sleep(5)
      const startMs = performance.now()
      const sending = broker.send('latency', [message])
      const { messages } = await waiting
      took.push(performance.now() - startMs)
      await sending
      await broker.settle(
        messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
        may,
      )
    }
    return took
  }

  return {
    title: 'messages per second',
    scenarios: [
      cell('send      1', 256, send([message]), purge),
      cell('receive   1', 256, drain(1), { prepare: refill }),
      cell('cycle     1', 256, cycle([message])),
      cell('send    100', 4, send(hundred), purge),
      cell('receive 100', 4, drain(100), { prepare: refill }),
      cell('cycle   100', 4, cycle(hundred)),
    ],
    latencies: [{ name: 'in process  latency, send to waiting receiver', measure: latency }],
    ratios: [],
  }
}
