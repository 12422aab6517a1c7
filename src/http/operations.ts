/** What load balancers and operators ask: is the process there, can it serve, and what is in its way. */
import { createRoute, z } from '@hono/zod-openapi'
import { BrokerError, isFatal, type Problem } from '../model/index.ts'
import { json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { flagParam } from './fields.ts'
import { findingOut, jsonOf, problems } from './route.ts'

const tags = ['operations']

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
  description:
    'Not ready (503) while Postgres is out of reach, read-only, or lacks a migration. With `verbose` also what only slows it down or will go wrong, such as a transaction that holds back vacuum; that does not make it unready.',
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
          problems: z.array(findingOut).optional(),
        })
        .openapi('Ready'),
      'Ready',
    ),
    ...problems(401, 403),
  },
})

const ready = endpoint(readyRoute, 'anyone', async ({ broker, query, principal, version }) => {
  const verbose = query.verbose === true && principal !== null
  const { diagnosis } = broker.admin
  const found = await (verbose ? diagnosis.all() : diagnosis.ready())
  const fatal = found.filter(isFatal)
  if (fatal.length === 0)
    return json(200, { status: 'ready', ...(verbose ? { version, problems: found.map(findingJson) } : {}) })
  const detail = verbose ? fatal.map((each) => each.detail).join(' ') : 'Not ready.'
  throw new BrokerError('unavailable', detail, { retryAfterS: 5, problems: verbose ? found : [] })
})

const findingJson = ({ since, ...rest }: Problem): z.input<typeof findingOut> => ({
  ...rest,
  since: since?.toISOString() ?? null,
})

export const operationEndpoints: readonly Endpoint[] = [health, ready]
