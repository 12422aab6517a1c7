/** POSTs of one body to one address as fast as they are answered. */
import { type Child, startChild } from './child.ts'
import type { LoadQuestion } from './load_process.ts'
import { body, once, type Place } from './place.ts'

export type Load = {
  /** Before what is measured: `postRate` would start it too. It goes with the place. */
  start(): Promise<unknown>
  /** The process that asks, when it is started. */
  pids(): number[]
  /** Requests per second; throws when one is not answered with 2xx. */
  postRate(url: string, connections: number, roundMs: number): Promise<number>
}

export function createLoad(place: Place): Load {
  let child: Child | undefined
  const start = once(async () => {
    const started = await startChild('./load_process.ts')
    place.closing.push(() => started.stop())
    child = started
    return started
  })
  return {
    start,
    pids: () => (child ? [child.pid] : []),
    postRate: async (url, connections, roundMs) =>
      await (await start()).ask<number>({ url, body, connections, roundMs } satisfies LoadQuestion),
  }
}
