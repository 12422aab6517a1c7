/**
 * An endpoint is a route, said once for the router, the checks and openapi.yaml; what a caller must be allowed to do;
 * and a handler that gets checked values and answers with a status that the route declares.
 */
import { type RouteConfig, z } from '@hono/zod-openapi'
import type { Broker } from '../broker/index.ts'
import {
  type Action,
  type Attempt,
  allows,
  BrokerError,
  invalid,
  namePattern,
  type Principal,
  type Tracing,
} from '../model/index.ts'
import type { Answer } from './answer.ts'
import { type Exchange, hasBody } from './exchange.ts'
import { readJson, refuseBody } from './json_body.ts'
import { checkPath, queryReader } from './query.ts'

/**
 * An action: allowed on the queue or topic in the path. `key`: any valid key, the handler decides the rest. `root`: the
 * root key. `anyone`: no key, but one that is sent must be valid. `nothing`: keys are not looked at.
 */
export type Needs = Action | 'key' | 'root' | 'anyone' | 'nothing'

/** What all handlers share. */
export type Site = {
  broker: Broker
  maxBodyBytes: number
  maxWaitMs: number
  version: string
  /** Sends one made-up message to a subscription's endpoint now. Throws unavailable where this gateway does not push. */
  testWebhook(subscription: string): Promise<Attempt>
  metrics(): Promise<Metrics>
  /** Whoever reaches the gateway may read the metrics. */
  metricsPublic: boolean
  tracing: Tracing | undefined
  /** Throws unauthenticated when the key that was sent with the request has been revoked or has expired since. */
  checkKey(exchange: Exchange): Promise<void>
}

/** In Prometheus's text format, and how that is called. */
export type Metrics = { type: string; text: string }

export type Endpoint = {
  route: RouteConfig
  needs: Needs
  handle(exchange: Exchange, principal: Principal | null, site: Site): Promise<Answer>
}

type QueryOf<R> = R extends { request: { query: infer Q extends z.ZodType } } ? z.output<Q> : Record<string, never>
type JsonOf<R> = R extends {
  request: { body: { content: { 'application/json': { schema: infer S extends z.ZodType } } } }
}
  ? z.output<S>
  : never
type StatusOf<R extends RouteConfig> = Extract<keyof R['responses'], number>

export type Call<R extends RouteConfig> = Site & {
  exchange: Exchange
  /** Nobody where the endpoint needs nothing and no key was sent. */
  principal: Principal | null
  /** The checked names in the path; '' where it has none. */
  queue: string
  topic: string
  query: QueryOf<R>
  /** A path parameter, decoded. */
  param(name: string): string
  /** The body by the route's schema, `{}` when there is none. */
  json(): Promise<JsonOf<R>>
}

type Handler<R extends RouteConfig> = (call: Call<R>) => Promise<Answer<StatusOf<R>>>

/** What a path can name, and where a key's scopes name the same. */
const kinds = { queue: 'queues', topic: 'topics' } as const
type Place = keyof typeof kinds

/** Bytes of a JSON body; enough for a thousand receipts with long reasons. */
export const jsonLimit = 10 * 1024 * 1024

export function endpoint<R extends RouteConfig>(route: R, needs: Needs, handler: Handler<R>): Endpoint {
  const querySchema = schemaOf(route.request?.query)
  const readQuery = queryReader(querySchema)
  const parameters = querySchema instanceof z.ZodObject ? Object.keys(querySchema.shape) : []
  const takesBody = route.request?.body !== undefined
  const jsonSchema = schemaOf(jsonOf(route))
  const place = placeOf(route.path)

  async function handle(exchange: Exchange, principal: Principal | null, site: Site): Promise<Answer> {
    checkPath(exchange.path)
    const { req } = exchange.context
    const name = place ? checkName(`path/${place}`, req.param(place) ?? '') : ''
    if (place) exchange[place] = name
    checkAllowed(needs, principal, place, name)
    const query = readQuery(exchange.search) as QueryOf<R>
    if (!takesBody && hasBody(exchange)) await refuseBody(exchange, parameters)
    return handler({
      broker: site.broker,
      maxBodyBytes: site.maxBodyBytes,
      maxWaitMs: site.maxWaitMs,
      version: site.version,
      testWebhook: site.testWebhook,
      metrics: site.metrics,
      metricsPublic: site.metricsPublic,
      tracing: site.tracing,
      checkKey: site.checkKey,
      exchange,
      principal,
      queue: place === 'queue' ? name : '',
      topic: place === 'topic' ? name : '',
      query,
      param(name) {
        return req.param(name) ?? ''
      },
      async json() {
        if (!jsonSchema) throw new Error(`${route.path} declares no JSON body`)
        return (await readJson(exchange, jsonSchema, jsonLimit)) as JsonOf<R>
      },
    })
  }

  return { route, needs, handle }
}

/** Throws invalid_value unless it is a name as queues and topics have them. */
export function checkName(pointer: string, name: string): string {
  if (namePattern.test(name)) return name
  throw invalid(pointer, 'must be 1–80 of A–Z a–z 0–9 . _ - and begin with a letter or a digit')
}

const placeOf = (path: string): Place | null =>
  path.includes('{queue}') ? 'queue' : path.includes('{topic}') ? 'topic' : null

/** Decided by the name alone, so that a refusal does not tell whether the queue or topic exists. */
function checkAllowed(needs: Needs, principal: Principal | null, place: Place | null, name: string): void {
  if (needs === 'nothing' || needs === 'anyone' || needs === 'key') return
  if (needs === 'root') {
    if (!principal?.root) throw new BrokerError('forbidden', 'Only the root key may manage API keys.')
    return
  }
  if (!place) throw new Error('a path without a queue or a topic is not allowed by an action')
  if (!permits(principal, needs, kinds[place], name)) throw forbidden(needs, name, place)
}

/** Whether the caller may do this to that queue or topic. Without a caller: no. */
export const permits = (
  principal: Principal | null,
  action: Action,
  kind: 'queues' | 'topics',
  name: string,
): boolean => principal !== null && allows(principal, action, kind, name)

export const forbidden = (action: Action, name: string, place: 'queue' | 'topic' = 'queue'): BrokerError =>
  new BrokerError('forbidden', `This API key has no scope to ${action} on ${place} ${name}.`)

function jsonOf(route: RouteConfig): unknown {
  const declared = route.request?.body?.content['application/json']
  return declared && 'schema' in declared ? declared.schema : undefined
}

/** Of what a route may declare in a place, the zod schema. */
const schemaOf = (declared: unknown): z.ZodType | undefined =>
  typeof declared === 'object' && declared !== null && 'safeParse' in declared ? (declared as z.ZodType) : undefined
