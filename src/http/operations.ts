/** What load balancers and operators ask: is the process there, can it serve, and what is in its way. */
import { createRoute, z } from '@hono/zod-openapi'
import { sleep } from '../base/index.ts'
import type { Broker } from '../broker/index.ts'
import { BrokerError } from '../model/index.ts'
import { json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { flagParam } from './fields.ts'
import { jsonOf, problems } from './route.ts'

const tags = ['operations']
/** A probe gives up after a few seconds itself; it should hear why. */
const readyDeadlineMs = 4000

const healthRoute = createRoute({
  method: 'get',
  path: '/healthz',
  operationId: 'health',
  summary: 'Whether the process is alive',
  tags,
  responses: {
    200: jsonOf(z.strictObject({ status: z.literal('ok') }).openapi('Health'), 'Alive'),
    ...problems(403),
  },
})

const health = endpoint(healthRoute, 'nothing', async () => json(200, { status: 'ok' }))

const readyRoute = createRoute({
  method: 'get',
  path: '/readyz',
  operationId: 'ready',
  summary: 'Whether messages can be served',
  tags,
  request: {
    query: z.strictObject({
      verbose: flagParam.openapi({
        description: 'Name what is wrong. Shown with a valid key, or where no key is needed.',
      }),
    }),
  },
  responses: {
    200: jsonOf(
      z
        .strictObject({
          status: z.literal('ready'),
          version: z.string().optional(),
          problems: z.array(z.string()).optional(),
        })
        .openapi('Ready'),
      'Ready',
    ),
    ...problems(401, 403),
  },
})

const ready = endpoint(readyRoute, 'anyone', async ({ broker, query, principal, version }) => {
  const found = await problemsOf(broker)
  const verbose = query.verbose && principal !== null
  if (found.length === 0) return json(200, { status: 'ready', ...(verbose ? { version, problems: [] } : {}) })
  throw new BrokerError('unavailable', verbose ? found.join('; ') : 'Not ready.', { retryAfterS: 5 })
})

/** Whatever goes wrong while asking is itself what is wrong. */
async function problemsOf(broker: Broker): Promise<string[]> {
  const late = new AbortController()
  try {
    const slow = sleep(readyDeadlineMs, late.signal).then(() => ['The database did not answer in time.'])
    return await Promise.race([broker.admin.problems(), slow])
  } catch {
    return ['The database is out of reach.']
  } finally {
    late.abort()
  }
}

export const operationEndpoints: readonly Endpoint[] = [health, ready]
