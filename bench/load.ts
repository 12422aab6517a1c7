/** POSTs of one body to one address as fast as they are answered. */
import { startChild } from './child.ts'
import type { LoadQuestion } from './load_process.ts'
import { body, type Place } from './place.ts'

export type Load = {
  /** The process that asks. */
  pid: number
  /** Requests per second; throws when one is not answered with 2xx. */
  postRate(url: string, connections: number, roundMs: number): Promise<number>
}

/** Goes with the place. */
export async function startLoad(place: Place): Promise<Load> {
  const child = await startChild('./load_process.ts')
  place.closing.push(() => child.stop())
  return {
    pid: child.pid,
    postRate: (url, connections, roundMs) =>
      child.ask<number>({ url, body, connections, roundMs } satisfies LoadQuestion),
  }
}
