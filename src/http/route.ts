/** The parts of a route's declaration that all share: its problems, its JSON answers, the names in its path. */
import { z } from '@hono/zod-openapi'
import { codes, problemCodes } from '../model/index.ts'
import { name, timeOut } from './fields.ts'

/** Something that is wrong with a gateway or its database. */
export const findingOut = z
  .strictObject({
    code: z.enum(problemCodes),
    detail: z.string(),
    since: timeOut.nullable().openapi({ description: 'As far as is known.' }),
    advice: z.string(),
  })
  .openapi('Finding')

const problemOut = z
  .strictObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string().optional(),
    instance: z.string().openapi({ description: 'Names the request; the same id is in Postern-Request-Id.' }),
    code: z.enum(codes),
    errors: z
      .array(z.strictObject({ pointer: z.string(), detail: z.string() }))
      .optional()
      .openapi({
        description: 'Each wrong field: a JSON pointer into the body, or query/NAME, path/NAME, header/NAME.',
      }),
    problems: z.array(findingOut).optional().openapi({ description: 'Of /readyz?verbose.' }),
  })
  .openapi('Problem', { description: 'RFC 9457.' })

const reasons = {
  400: 'The JSON, the path or the query is malformed',
  401: 'No valid API key',
  403: 'The API key has no scope for this, or the request comes from a page of another origin',
  404: 'Not found',
  409: 'Conflict',
  413: 'The body is too large',
  415: 'The body is of a type that is not taken here',
  422: 'A value is invalid; `errors` names it',
  429: 'The queue is full, or there are too many requests; retry after Retry-After seconds',
  500: 'Our fault; the log has more under the same request id',
  503: 'The database is out of reach, or the gateway overloaded; retry after Retry-After seconds',
} as const

type ProblemStatus = keyof typeof reasons
type ProblemAnswer = { description: string; content: { 'application/problem+json': { schema: typeof problemOut } } }

const common = [400, 422, 429, 500, 503] as const
type Common = (typeof common)[number]

/** Declares refusals. Every endpoint may also answer 400, 422, 429, 500 and 503. */
export function problems<Status extends ProblemStatus>(...statuses: Status[]): Record<Status | Common, ProblemAnswer> {
  const all = [...common, ...statuses] as ProblemStatus[]
  return Object.fromEntries(
    all.map((status) => [
      status,
      { description: reasons[status], content: { 'application/problem+json': { schema: problemOut } } },
    ]),
  ) as Record<Status | Common, ProblemAnswer>
}

export const jsonOf = <S extends z.ZodType>(schema: S, description: string) => ({
  description,
  content: { 'application/json': { schema } },
})

export const jsonIn = <S extends z.ZodType>(schema: S) => ({
  content: { 'application/json': { schema } },
})

/** Exactly these members; an unknown one is refused by its own name, anything but an object by `text`. */
export const objectOf = <S extends z.core.$ZodLooseShape>(shape: S, text: string) =>
  z.strictObject(shape, { error: (issue) => (issue.code === 'invalid_type' ? text : undefined) })

export const queueParam = z.object({ queue: name })
export const topicParam = z.object({ topic: name })
export const security = [{ apiKey: [] }]
