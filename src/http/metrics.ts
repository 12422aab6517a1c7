/** What Prometheus reads. Names of queues are in it, so it takes a key that may read them all, unless a setting opens it. */
import { createRoute, z } from '@hono/zod-openapi'
import { BrokerError, type Principal } from '../model/index.ts'
import type { Answer } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { problems } from './route.ts'

const metricsRoute = createRoute({
  method: 'get',
  path: '/metrics',
  operationId: 'metrics',
  summary: "What this gateway has counted, in Prometheus's text format",
  description:
    'With a key that may read every queue (`{"actions":["read"],"queues":["*"]}`), where no key is needed, or with METRICS_PUBLIC=true.',
  tags: ['operations'],
  responses: {
    200: {
      description: 'The metrics',
      content: { 'text/plain; version=0.0.4; charset=utf-8': { schema: z.string() } },
    },
    ...problems(401, 403, 404),
  },
})

/** `anyone`: a scrape is never refused by the limits on requests, which is when it matters. */
const read = endpoint(metricsRoute, 'anyone', async ({ metrics, metricsPublic, principal }): Promise<Answer<200>> => {
  if (!metricsPublic) checkReader(principal)
  const { type, text } = await metrics()
  return { status: 200, body: text, headers: { 'Content-Type': type } }
})

function checkReader(principal: Principal | null): void {
  if (!principal) throw new BrokerError('unauthenticated', 'Send an API key: `Authorization: Bearer KEY`.')
  const readsAll = principal.scopes.some((scope) => scope.actions.includes('read') && scope.queues.includes('*'))
  if (!principal.root && !readsAll)
    throw new BrokerError('forbidden', 'Metrics name all queues: this takes a key with the action read on queues *.')
}

export const metricsEndpoints: readonly Endpoint[] = [read]
