/** The parent's side of the endpoint in `sink_process.ts`. */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { sleep } from './place.ts'

/** Requests with this header are noted one by one. */
export const numberHeader = 'bench-number'

/** `atMs`: by the shared clock. The first answer's count is the port. */
export type SinkAnswer = { count: number; atMs: number; arrivals: [number, number][] }

export type Sink = {
  url: string
  /** Requests per second that arrive in `ms`, from when the first few hundred have come. */
  rate(ms: number): Promise<number>
  /** By number, when each came by the shared clock. Waits until there are `count`; throws when they do not come. */
  arrivals(count: number): Promise<Map<number, number>>
  /** By number, when each came; those since it was last asked. */
  newArrivals(): Promise<[number, number][]>
  stop(): Promise<void>
}

/** Milliseconds by the monotonic clock that all processes of one machine share. */
export const sharedClockMs = (): number => Number(process.hrtime.bigint()) / 1e6

const firstCount = 300
const deadlineMs = 15_000

/** One question at a time. */
export async function startSink(): Promise<Sink> {
  const child = fork(fileURLToPath(new URL('./sink_process.ts', import.meta.url)), { execArgv: process.execArgv })
  const next = (): Promise<SinkAnswer> =>
    new Promise((resolve, reject) => {
      const gone = () => reject(new Error('the sink has gone'))
      child.once('exit', gone)
      child.once('message', (answer) => {
        child.off('exit', gone)
        resolve(answer as SinkAnswer)
      })
    })
  async function ask(wanted: 'count' | 'arrivals'): Promise<SinkAnswer> {
    const answer = next()
    child.send(wanted)
    return await answer
  }
  const { count: port } = await next()
  return {
    url: `http://127.0.0.1:${port}/hook`,
    async rate(ms) {
      const { count, atMs: startMs } = await ask('count')
      let from = await ask('count')
      for (; from.count < count + firstCount; from = await ask('count')) {
        if (from.atMs > startMs + deadlineMs) throw new Error('nothing arrives')
        await sleep(10)
      }
      await sleep(ms)
      const to = await ask('count')
      return ((to.count - from.count) / (to.atMs - from.atMs)) * 1000
    },
    async arrivals(count) {
      const found = new Map<number, number>()
      const untilMs = sharedClockMs() + deadlineMs
      for (;;) {
        for (const [number, atMs] of (await ask('arrivals')).arrivals) found.set(number, found.get(number) ?? atMs)
        if (found.size >= count) return found
        if (sharedClockMs() > untilMs) throw new Error(`${found.size} of ${count} arrived`)
        await sleep(20)
      }
    },
    newArrivals: async () => (await ask('arrivals')).arrivals,
    async stop() {
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.disconnect()
      await gone
    },
  }
}
