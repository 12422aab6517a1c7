/** POSTs of one body to one address as fast as they are answered, by autocannon in this process. */
import { createRequire } from 'node:module'
import { body } from './place.ts'

type Result = { duration: number; '2xx': number; non2xx: number; errors: number; timeouts: number }
type Autocannon = (options: Record<string, unknown>) => PromiseLike<Result>

// It brings no types.
const autocannon = createRequire(import.meta.url)('autocannon') as Autocannon

/** Requests per second; throws when one is not answered with 2xx. */
export async function postRate(url: string, connections: number, roundMs: number): Promise<number> {
  const result = await autocannon({
    url,
    method: 'POST',
    body,
    headers: { 'content-type': 'text/plain' },
    connections,
    // Whole seconds are its unit, but it takes parts of them.
    duration: roundMs / 1000,
  })
  if (result.non2xx + result.errors + result.timeouts > 0)
    throw new Error(`${url}: ${result.non2xx} not 2xx, ${result.errors} errors, ${result.timeouts} timeouts`)
  return result['2xx'] / result.duration
}
