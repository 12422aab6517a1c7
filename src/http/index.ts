/**
 * The REST edge: maps routes to the broker and back, and holds nothing between requests. Every answer carries a request
 * id, every request leaves one log line.
 */
import { Hono } from 'hono'
import { budget, monotonicMs } from '../base/index.ts'
import type { Broker } from '../broker/index.ts'
import {
  type Attempt,
  BrokerError,
  type Observe,
  type Principal,
  parseTraceparent,
  type Rate,
  type Tracing,
  unobserved,
} from '../model/index.ts'
import type { Answer } from './answer.ts'
import { openApiDocument, printYaml } from './document.ts'
import type { Endpoint, Metrics, Site } from './endpoint.ts'
import { endpoints } from './endpoints.ts'
import {
  type Exchange,
  type HttpEnv,
  hasGone,
  openExchange,
  rawPath,
  releaseBody,
  requestIds,
  type Shared,
  unreadBody,
} from './exchange.ts'
import { createGate } from './gate.ts'
import { createLimits } from './limits.ts'
import { traceOf } from './message_headers.ts'
import { problem } from './problem.ts'
import { endSpan, spanOf } from './spans.ts'
import { unknownEndpoint } from './unknown.ts'

/** For tests: what is declared, to hold the answers against. */
export { endpoints } from './endpoints.ts'
export { networkOf } from './limits.ts'
export { type Listening, type ListenOptions, listen } from './server.ts'

/** Takes the one line about a request. Never a body, a key, a receipt or a query's values. */
export type AccessLog = (line: Record<string, unknown>) => void

export type HttpDeps = {
  broker: Broker
  rootKey: string | null
  /** No key is needed: a loopback address without a root key. */
  open: boolean
  host: string
  maxBodyBytes: number
  maxWaitMs: number
  /** Of request bodies that are being read or wait for the broker, together. */
  maxBodiesInFlightBytes: number
  /** Of answers that their clients have not taken yet. */
  maxAnswersInFlightBytes: number
  /** Requests of all, and of each API key that has no rate of its own; null: any number. */
  rateLimit: Rate | null
  rateLimitPerKey: Rate | null
  /** Requests without a valid key, from each address. */
  rateLimitRefused: Rate | null
  version: string
  /** Sends one made-up message to a subscription's endpoint now. Absent where nothing is pushed. */
  testWebhook?: (subscription: string) => Promise<Attempt>
  /** Absent: there are none. */
  metrics?: () => Promise<Metrics>
  /** Whoever reaches the gateway may read the metrics. */
  metricsPublic?: boolean
  observe?: Observe
  /** Absent: no traces. */
  tracing?: Tracing | undefined
  log: AccessLog
}

export type Http = {
  fetch: Hono<HttpEnv>['fetch']
  /** For `app.request()`. */
  app: Hono<HttpEnv>
}

/** The text of openapi.yaml. */
export const openApiYaml = (): string => printYaml(openApiDocument(endpoints))

export function createHttp(deps: HttpDeps): Http {
  const app = new Hono<HttpEnv>({ getPath: rawPath })
  const limits = createLimits(deps)
  const gate = createGate({ ...deps, limits })
  const shared: Shared = {
    newRequestId: requestIds(),
    bodies: budget(deps.maxBodiesInFlightBytes),
    answers: budget(deps.maxAnswersInFlightBytes),
  }
  const { broker, maxBodyBytes, maxWaitMs, version, testWebhook = noWebhooks, observe = unobserved, tracing } = deps
  const { metrics = noMetrics, metricsPublic = false } = deps
  const checkKey = async (exchange: Exchange): Promise<void> => void (await gate.identify(exchange, 'key'))
  const site: Site = {
    broker,
    maxBodyBytes,
    maxWaitMs,
    version,
    testWebhook,
    metrics,
    metricsPublic,
    tracing,
    checkKey,
  }

  async function serve(endpoint: Endpoint, exchange: Exchange): Promise<Response> {
    let principal: Principal | null = null
    let error: unknown
    let answer: Answer
    observe.requesting(1)
    exchange.span = tracing && spanOf(tracing, endpoint, exchange)
    try {
      gate.checkOrigin(exchange)
      principal = await gate.identify(exchange, endpoint.needs)
      limits.admit(endpoint.needs, principal, exchange.quota)
      answer = await endpoint.handle(exchange, principal, site)
    } catch (thrown) {
      error = thrown
      answer = problem(thrown, exchange.requestId)
    } finally {
      releaseBody(exchange)
    }
    const durationMs = Math.round((monotonicMs() - exchange.startedMs) * 100) / 100
    observe.requesting(-1)
    observe.request(exchange.method, endpoint.route.path, answer.status, durationMs)
    deps.log(accessLine(endpoint, exchange, principal, answer, error, durationMs))
    if (exchange.span) endSpan(exchange.span, exchange, answer, error)
    return respond(exchange, answer)
  }

  for (const endpoint of endpoints) {
    const { method, path } = endpoint.route
    app.on(method.toUpperCase(), path.replaceAll(/\{(\w+)\}/g, ':$1'), (context) =>
      serve(endpoint, openExchange(context, shared)),
    )
  }
  const unknown = unknownEndpoint(app, endpoints)
  app.notFound((context) => serve(unknown, openExchange(context, shared)))
  return { fetch: app.fetch, app }
}

async function noMetrics(): Promise<never> {
  throw new BrokerError('not_found', 'This gateway serves no metrics.')
}

async function noWebhooks(): Promise<never> {
  throw new BrokerError('unavailable', 'This gateway does not deliver webhooks.')
}

function respond(exchange: Exchange, { status, body, headers }: Answer): Response {
  headers['Postern-Request-Id'] = exchange.requestId
  Object.assign(headers, exchange.quota)
  headers['X-Content-Type-Options'] = 'nosniff'
  headers['Cache-Control'] ??= 'no-store'
  const unread = status >= 400 && typeof body === 'string' ? unreadBody(exchange, status, body) : null
  // A plain object, not Headers: the server writes it as it is.
  return new Response(unread ? unread.body : (body as string | Uint8Array<ArrayBuffer> | null), {
    status,
    headers: unread ? { ...headers, ...unread.headers } : headers,
  })
}

function accessLine(
  endpoint: Endpoint,
  exchange: Exchange,
  principal: Principal | null,
  answer: Answer,
  error: unknown,
  durationMs: number,
): Record<string, unknown> {
  const { method, path, requestId, bytesIn, queue, topic } = exchange
  return {
    event: 'request',
    method,
    route: endpoint.route.path,
    path: pathShown(path, endpoint.route.path),
    status: answer.status,
    duration_ms: durationMs,
    request_id: requestId,
    trace_id: parseTraceparent(traceOf(exchange)?.traceparent)?.traceId,
    client: exchange.incoming?.socket.remoteAddress,
    principal: principal?.id ?? null,
    bytes_in: bytesIn,
    bytes_out: answer.body === null ? 0 : Buffer.byteLength(answer.body),
    queue,
    topic,
    aborted: hasGone(exchange) || undefined,
    code: error instanceof BrokerError ? error.code : undefined,
    error: error !== undefined && answer.status >= 500 ? describe(error) : undefined,
  }
}

/** A receipt is as good as a key to its message, and a message's key may name a person. */
function pathShown(path: string, route: string): string {
  if (path.startsWith('/v1/leases/')) return path.replace(/^(.{11})[^/]+/, '$1{receipt}')
  if (route.includes('{key}')) return path.replace(/(\/keys\/)[^/]+/, '$1{key}')
  // Somebody may have mistyped the path of one.
  return (route === '*' ? path.replace(/[^/]{33,}/g, '{long}') : path).slice(0, 300)
}

/** With what lies behind it. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause === undefined ? `${error.stack}` : `${error.stack}\ncaused by: ${describe(error.cause)}`
}
