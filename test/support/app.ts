/**
 * The REST edge on a real broker and a database of its own. Every answer is held against what its route declares: a
 * status or a field that openapi.yaml does not have fails the test that met it.
 */
import { expect } from 'vitest'
import type { Broker, BrokerOptions } from '../../src/broker/index.ts'
import {
  createHttp,
  endpoints,
  type Http,
  type HttpDeps,
  type Listening,
  type ListenOptions,
  listen,
} from '../../src/http/index.ts'
import { brokerOn } from './broker.ts'
import { type TestDatabase, testDatabase } from './postgres.ts'

export type TestApp = {
  http: Http
  broker: Broker
  databaseUrl: string
  database: TestDatabase
  /** The access log so far. */
  lines: Record<string, unknown>[]
  /** `path` begins with /. An object as `json` is sent as JSON. */
  request(path: string, init?: RequestInit & { json?: unknown }): Promise<Response>
  /** The same app on a port. */
  listen(options?: Partial<ListenOptions>): Promise<Listening>
  /** Ids of messages sent with these bodies. */
  send(queue: string, ...bodies: string[]): Promise<string[]>
  /** Receives through the API. */
  receive(queue: string, query?: string): Promise<Received[]>
  stop(): Promise<void>
}

export type Received = { id: string; receipt: string; attempt: number; [field: string]: unknown }

export const rootKey = 'root-key-of-the-tests'

/** `broken` replaces functions of the broker, for what a healthy one does not do. */
export async function testApp(
  options: Partial<HttpDeps> & {
    broken?: (broker: Broker) => Partial<Broker>
    ofBroker?: Partial<BrokerOptions>
  } = {},
): Promise<TestApp> {
  const database = await testDatabase()
  const { broken, ofBroker, ...given } = options
  const broker = brokerOn(database.url, 6, ofBroker)
  await broker.start()
  const lines: Record<string, unknown>[] = []
  const http = createHttp({
    broker: { ...broker, ...broken?.(broker) },
    rootKey: null,
    open: true,
    host: '127.0.0.1',
    maxBodyBytes: 1024 * 1024,
    maxWaitMs: 55_000,
    maxBodiesInFlightBytes: 256 * 1024 * 1024,
    maxAnswersInFlightBytes: 256 * 1024 * 1024,
    rateLimit: null,
    rateLimitPerKey: null,
    rateLimitRefused: null,
    version: '0.0.0-test',
    log: (line) => lines.push(line),
    ...given,
  })
  const listening: Listening[] = []

  async function request(path: string, init: RequestInit & { json?: unknown } = {}): Promise<Response> {
    const { json, ...rest } = init
    const answer = await http.app.request(path, {
      ...rest,
      ...(json === undefined
        ? {}
        : { body: JSON.stringify(json), headers: { 'content-type': 'application/json', ...rest.headers } }),
    })
    await holdAgainstRoute(answer, lines.at(-1) ?? {})
    return answer
  }

  return {
    http,
    broker,
    databaseUrl: database.url,
    database,
    lines,
    request,
    async listen(more = {}) {
      const one = await listen(http, { host: '127.0.0.1', port: 0, log: (line) => lines.push(line), ...more })
      listening.push(one)
      return one
    },
    async send(queue, ...bodies) {
      const answer = await request(`/v1/queues/${queue}/messages/batch`, {
        method: 'POST',
        json: { messages: bodies.map((body) => ({ body })) },
      })
      const { results } = (await answer.json()) as { results: { id: string }[] }
      return results.map(({ id }) => id)
    },
    async receive(queue, query = '') {
      const answer = await request(`/v1/queues/${queue}/receive${query}`, { method: 'POST' })
      expect(answer.status).toBe(200)
      return ((await answer.json()) as { messages: Received[] }).messages
    },
    async stop() {
      await Promise.all(listening.map((one) => one.close()))
      await broker.stop(1000)
      await database.drop()
    },
  }
}

async function holdAgainstRoute(answer: Response, line: Record<string, unknown>): Promise<void> {
  expect(answer.headers.get('postern-request-id')).toBe(line.request_id)
  expect(answer.status).toBe(line.status)
  expect(JSON.stringify(line)).not.toContain(rootKey)
  const method = line.method === 'HEAD' ? 'get' : String(line.method).toLowerCase()
  const route = endpoints.find((one) => one.route.path === line.route && one.route.method === method)?.route
  // The validator's own words say nothing to a caller.
  if (answer.status === 422)
    expect(await answer.clone().text()).not.toMatch(
      /Invalid (input|option|string|key|element)|, received |Unrecognized key|Too (big|small)/,
    )
  if (!route) return
  const declared: unknown = route.responses[answer.status]
  expect(declared, `${method} ${route.path} declares ${answer.status}`).toBeDefined()
  if (line.method === 'HEAD') return
  const type = answer.headers.get('content-type') ?? ''
  const schema = (declared as { content?: Record<string, { schema?: unknown }> }).content?.[type]?.schema
  if (isSchema(schema) && type.includes('json')) schema.parse(await answer.clone().json())
}

const isSchema = (value: unknown): value is { parse(value: unknown): unknown } =>
  typeof value === 'object' && value !== null && 'parse' in value

/** The refusal in an answer: its status and code, and the fields it names. */
export async function refusal(answer: Response): Promise<{ status: number; code: string; pointers: string[] }> {
  expect(answer.headers.get('content-type')).toBe('application/problem+json')
  const problem = (await answer.json()) as { status: number; code: string; errors?: { pointer: string }[] }
  expect(problem.status).toBe(answer.status)
  return { status: answer.status, code: problem.code, pointers: (problem.errors ?? []).map(({ pointer }) => pointer) }
}

/** What `refusal` gives for one invalid field. */
export const invalidField = (...pointers: string[]) => ({ status: 422, code: 'invalid_value', pointers })
