/** Why a message is where it is. */
import { createRoute, z } from '@hono/zod-openapi'
import { type ExplainCode, type Explanation, explainCodes, explainStates, timelineEvents } from '../model/index.ts'
import { json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { timeOut } from './fields.ts'
import { oneMessage } from './messages.ts'
import { jsonOf, problems, security } from './route.ts'

const meanings = Object.entries(explainCodes)
  .map(([code, meaning]) => `- \`${code}\`: ${meaning}`)
  .join('\n')

const reasonOut = z.strictObject({
  code: z.enum(Object.keys(explainCodes) as [ExplainCode]).openapi({ description: meanings }),
  detail: z.string().openapi({ description: 'For people.' }),
  until: timeOut.nullable().openapi({ description: 'When it changes by itself, as far as is known.' }),
  message_id: z.string().optional().openapi({ description: 'The message in its way.' }),
  subscription: z.string().optional().openapi({ description: 'The webhook that it is about.' }),
  queue: z.string().optional().openapi({ description: 'The queue that has it now.' }),
})

const explanationOut = z
  .strictObject({
    id: z.string(),
    queue: z.string(),
    state: z.enum(explainStates).openapi({ description: '`gone`: only its webhook attempts are left.' }),
    summary: z.string().openapi({ description: 'The reasons in words.' }),
    reasons: z
      .array(reasonOut)
      .openapi({ description: 'What holds it comes first; then whatever else is in its way.' }),
    attempts: z.int(),
    max_attempts: z.int(),
    leased_by: z
      .strictObject({
        api_key: z.string().nullable().openapi({ description: 'Its id, or `root`.' }),
        api_key_name: z.string().nullable(),
        subscription: z.string().nullable(),
        gateway: z.string().openapi({ description: 'Through which it was leased.' }),
        leased_at: timeOut,
      })
      .nullable()
      .openapi({
        description:
          'null: it is not leased, or nobody knows: who holds a lease is kept only in the memory of the gateway that leased it, and forgotten when it restarts.',
      }),
    timeline: z.array(
      z.strictObject({
        at: timeOut.nullable().openapi({ description: 'null: it happened, and when is not kept.' }),
        event: z.enum(timelineEvents),
        detail: z.string(),
        expected: z.boolean().openapi({ description: 'It lies ahead, if nobody does anything.' }),
      }),
    ),
  })
  .openapi('Explanation')

const explainRoute = createRoute({
  method: 'get',
  path: '/v1/queues/{queue}/messages/{id}/explain',
  operationId: 'explainMessage',
  summary: 'Why a message is where it is, and what is known of its life',
  description:
    'In codes and in words, as of one moment. A message that is done is explained only as long as attempts of a webhook are kept for it.',
  tags: ['messages'],
  security,
  request: { params: oneMessage },
  responses: { 200: jsonOf(explanationOut, 'The explanation'), ...problems(401, 403, 404) },
})

const explain = endpoint(explainRoute, 'read', async ({ broker, queue, param }) =>
  json(200, explanationJson(await broker.admin.explainMessage(queue, param('id')))),
)

function explanationJson(found: Explanation): z.input<typeof explanationOut> {
  const { holder } = found
  return {
    id: found.id,
    queue: found.queue,
    state: found.state,
    summary: found.summary,
    reasons: found.reasons.map(({ code, detail, until, messageId, subscription, queue }) => ({
      code,
      detail,
      until: until?.toISOString() ?? null,
      ...(messageId === undefined ? {} : { message_id: messageId }),
      ...(subscription === undefined ? {} : { subscription }),
      ...(queue === undefined ? {} : { queue }),
    })),
    attempts: found.attempts,
    max_attempts: found.maxAttempts,
    leased_by: holder && {
      api_key: holder.key,
      api_key_name: holder.keyName,
      subscription: holder.subscription,
      gateway: holder.gateway,
      leased_at: holder.leasedAt.toISOString(),
    },
    timeline: found.timeline.map(({ at, event, detail, expected }) => ({
      at: at?.toISOString() ?? null,
      event,
      detail,
      expected,
    })),
  }
}

export const explainEndpoints: readonly Endpoint[] = [explain]
