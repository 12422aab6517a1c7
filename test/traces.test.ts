/** Traces: one message, one trace, from the caller's span over send, store and receive to the webhook; and nothing of it where it is off. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterEach, describe, expect, test } from 'vitest'
import { createApp } from '../src/app.ts'
import { loadConfig } from '../src/config.ts'
import { parseTraceparent } from '../src/model/index.ts'
import { startTraces, type Traces } from '../src/tracing/index.ts'
import type { Received } from './support/app.ts'
import { type Collected, type Collector, startCollector } from './support/collector.ts'
import { eventually, testDatabase } from './support/postgres.ts'
import { type Sink, startSink, status } from './support/sink.ts'
import { type Watched, watched } from './support/watched.ts'

const run = promisify(execFile)
const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
const callersSpan = '00f067aa0ba902b7'
const sampled = `00-${traceId}-${callersSpan}-01`

type Place = {
  app: Watched
  traces: Traces
  collector: Collector
  failures: number
  lines: string[]
  all(): Promise<Collected[]>
}
const closing: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

async function place(endpoint?: string): Promise<Place> {
  const collector = await startCollector()
  const lines: string[] = []
  const traces = startTraces({
    endpoint: endpoint ?? collector.url,
    version: '1.2.3',
    exportFailed: () => made.failures++,
    log: (event, fields) => lines.push(`${event} ${fields?.error}`),
  })
  const app = await watched({ tracing: traces.tracing })
  await app.request('/v1/queues/orders', { method: 'PUT' })
  const made: Place = {
    app,
    traces,
    collector,
    failures: 0,
    lines,
    /** After it nothing more is sent. */
    async all() {
      await traces.stop()
      return collector.spans
    },
  }
  closing.push(collector.close, traces.stop, app.stop)
  return made
}

async function sinkOf(answer?: Sink['answer']): Promise<Sink> {
  const sink = await startSink(answer)
  closing.push(sink.close)
  return sink
}

const sendTo = (app: Watched, path: string, headers: Record<string, string> = {}) =>
  app.request(path, { method: 'POST', body: 'x', headers: { 'content-type': 'text/plain', ...headers } })
const traceparentOf = (delivery: Received | undefined): string | undefined =>
  (delivery?.headers as Record<string, string> | undefined)?.traceparent
const only = (spans: Collected[], name: string): Collected => {
  const found = spans.filter((span) => span.name === name)
  expect(found, name).toHaveLength(1)
  return found[0] as Collected
}

describe('a message', () => {
  test('is one trace: request, store, receive', async () => {
    const { app, all } = await place()
    const sent = await sendTo(app, '/v1/queues/orders/messages', { traceparent: sampled, tracestate: 'vendor=1' })
    const { id } = (await sent.json()) as { id: string }
    const [delivery] = await app.receive('orders')
    const spans = await all()
    const request = only(spans, 'POST /v1/queues/{queue}/messages')
    expect(request).toMatchObject({ traceId, parentSpanId: callersSpan, kind: 2, failed: false })
    expect(request.attributes).toMatchObject({
      'http.request.method': 'POST',
      'http.route': '/v1/queues/{queue}/messages',
      'http.response.status_code': 201,
      'messaging.destination.name': 'orders',
    })
    expect(request.resource).toMatchObject({ 'service.name': 'postern', 'service.version': '1.2.3' })
    expect(only(spans, 'store')).toMatchObject({ traceId, parentSpanId: request.spanId, kind: 1, links: [] })
    const receiving = only(spans, 'POST /v1/queues/{queue}/receive')
    expect(receiving.traceId).not.toBe(traceId)
    const handedOut = only(spans, 'receive orders')
    expect(handedOut).toMatchObject({ traceId, parentSpanId: request.spanId, kind: 5 })
    expect(handedOut.links).toMatchObject([{ traceId: receiving.traceId, spanId: receiving.spanId }])
    expect(handedOut.attributes).toMatchObject({ 'messaging.message.id': id, 'postern.attempt': 1 })
    // What the consumer goes on from.
    const headers = delivery?.headers as Record<string, string>
    expect(headers).toEqual({ traceparent: `00-${traceId}-${request.spanId}-01`, tracestate: 'vendor=1' })
  })

  test('without a trace begins one, which the log names too', async () => {
    const { app, all } = await place()
    await sendTo(app, '/v1/queues/orders/messages')
    const [delivery] = await app.receive('orders')
    const request = only(await all(), 'POST /v1/queues/{queue}/messages')
    expect(request.parentSpanId).toBeUndefined()
    expect(parseTraceparent(traceparentOf(delivery))).toMatchObject({
      traceId: request.traceId,
      spanId: request.spanId,
    })
    expect(app.lines.map(({ trace_id }) => trace_id)).toContain(request.traceId)
  })

  test('that is published goes on in each webhook attempt, whose endpoint goes on from that', async () => {
    const { app, all } = await place()
    let fails = true
    const sink = await sinkOf((hit, response) => {
      const answer = fails ? 500 : 200
      fails = false
      return status(answer)(hit, response)
    })
    app.push.start()
    await app.request('/v1/topics/events', { method: 'PUT' })
    const json = { topic: 'events', url: `${sink.url}/hunter2`, retry: { schedule: ['10ms'] } }
    expect((await app.request('/v1/subscriptions', { method: 'POST', json })).status).toBe(201)
    await sendTo(app, '/v1/topics/events/messages', { traceparent: sampled })
    await eventually(() => sink.hits.length === 2)
    await app.push.stop(5000)
    const spans = await all()
    const request = only(spans, 'POST /v1/topics/{topic}/messages')
    const attempts = spans.filter(({ name }) => name === 'webhook attempt')
    expect(attempts).toMatchObject([
      { traceId, parentSpanId: request.spanId, kind: 3, failed: true },
      { traceId, parentSpanId: request.spanId, kind: 3, failed: false },
    ])
    expect(attempts.map(({ attributes }) => attributes['http.response.status_code'])).toEqual([500, 200])
    expect(sink.hits.map(({ headers }) => headers.traceparent)).toEqual(
      attempts.map(({ spanId }) => `00-${traceId}-${spanId}-01`),
    )
    expect(only(spans, 'store').traceId).toBe(traceId)
    // Paths of webhooks are often secret.
    expect(JSON.stringify(spans)).not.toContain('hunter2')
  })

  test('of a batch keeps the trace of its own, and the statement is linked to all', async () => {
    const { app, all } = await place()
    const other = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`
    const json = { messages: [{ body: 'a' }, { body: 'b', headers: { traceparent: other } }] }
    await app.request('/v1/queues/orders/messages/batch', { method: 'POST', json, headers: { traceparent: sampled } })
    const spans = await all()
    const request = only(spans, 'POST /v1/queues/{queue}/messages/batch')
    const store = only(spans, 'store')
    expect(store).toMatchObject({ traceId, parentSpanId: request.spanId })
    expect(store.links).toMatchObject([{ traceId: 'a'.repeat(32), spanId: 'b'.repeat(16) }])
    expect(store.attributes['messaging.batch.message_count']).toBe(2)
  })

  test('whose caller is not sampled leaves no span, and says so to the next', async () => {
    const { app, all } = await place()
    await sendTo(app, '/v1/queues/orders/messages', { traceparent: `00-${traceId}-${callersSpan}-00` })
    const [delivery] = await app.receive('orders')
    expect(traceparentOf(delivery)).toMatch(new RegExp(`^00-${traceId}-[0-9a-f]{16}-00$`))
    const spans = await all()
    expect(spans.filter((span) => span.traceId === traceId)).toEqual([])
  })
})

describe('a span', () => {
  test('of a request that failed through us has failed; a refusal has not, and probes have none', async () => {
    const { app, all } = await place()
    await app.request('/v1/queues/nowhere')
    await app.request('/healthz')
    await app.request('/readyz')
    await app.request('/metrics')
    const spans = await all()
    expect(only(spans, 'GET /v1/queues/{queue}')).toMatchObject({
      failed: false,
      attributes: { 'http.response.status_code': 404, 'error.type': 'queue_not_found' },
    })
    expect(spans.filter(({ name }) => /healthz|readyz|metrics/.test(name))).toEqual([])
  })

  test('goes to /v1/traces below the endpoint', async () => {
    const { app, collector, all } = await place()
    await app.request('/v1/queues')
    await all()
    expect(new Set(collector.paths)).toEqual(new Set(['/v1/traces']))
  })
})

test('a collector that is away is counted and logged, and nobody waits for it', async () => {
  const gone = await startCollector()
  await gone.close()
  const away = await place(gone.url)
  expect((await sendTo(away.app, '/v1/queues/orders/messages')).status).toBe(201)
  await away.all()
  expect(away.failures).toBe(1)
  expect(away.lines.filter((line) => line.startsWith('traces were not taken'))).toHaveLength(1)
})

test.each([
  '',
  'nonsense',
  `ff-${traceId}-${callersSpan}-01`,
  `00-${'0'.repeat(32)}-${callersSpan}-01`,
  `00-${traceId}-${'0'.repeat(16)}-01`,
])('a traceparent that is none is none: %s', (text) => expect(parseTraceparent(text)).toBeNull())

describe('the whole gateway', () => {
  test('sends traces to the endpoint of its settings, the last when it stops, and serves metrics', async () => {
    const database = await testDatabase()
    const collector = await startCollector()
    closing.push(database.drop, collector.close)
    const settings = { DATABASE_URL: database.url, PORT: '0', OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/` }
    const log = { event: () => {}, line: () => {}, fatal: () => {} }
    const app = createApp(loadConfig(settings, { tty: false }), { log })
    const { url } = await app.start()
    await fetch(`${url}/v1/queues/orders`, { method: 'PUT' })
    await fetch(`${url}/v1/queues/orders/messages`, { method: 'POST', body: 'x' })
    const metrics = await (await fetch(`${url}/metrics`)).text()
    await app.stop()
    expect(metrics).toContain('postern_messages_sent_total{queue="orders"} 1')
    expect(metrics).toMatch(/postern_database_statement_seconds_count\{statement="send"\} [1-9]/)
    const names = collector.spans.map(({ name }) => name)
    expect(names).toEqual(expect.arrayContaining(['PUT /v1/queues/{queue}', 'store']))
  })

  test('does not even load the SDK without one', async () => {
    const loaded = async (...modules: string[]): Promise<string[]> => {
      const code = `import { createRequire } from 'node:module'
        for (const name of ${JSON.stringify(modules)}) await import(name)
        console.log(JSON.stringify(Object.keys(createRequire(process.cwd() + '/x.js').cache)))`
      const words = ['--import', 'tsx', '--input-type=module', '-e', code]
      const { stdout } = await run(process.execPath, words, { cwd: new URL('..', import.meta.url).pathname })
      return (JSON.parse(stdout) as string[]).filter((file) => file.includes('/sdk-trace-base/'))
    }
    expect(await loaded('./src/app.ts', './src/serve.ts')).toEqual([])
    expect(await loaded('./src/tracing/index.ts')).not.toEqual([])
  })
})
