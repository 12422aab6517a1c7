/** A client in a process of its own, which nothing before has shaped: POSTs of one body as fast as they are answered, by autocannon. */
import { createRequire } from 'node:module'
import { serveParent } from './child.ts'

export type LoadQuestion = { url: string; body: Buffer; connections: number; roundMs: number }

type Result = { duration: number; '2xx': number; non2xx: number; errors: number; timeouts: number }
type Autocannon = (options: Record<string, unknown>) => PromiseLike<Result>

// It brings no types.
const autocannon = createRequire(import.meta.url)('autocannon') as Autocannon

serveParent(
  '',
  async (question) => {
    const { url, body, connections, roundMs } = question as LoadQuestion
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
  },
  async () => {},
)
