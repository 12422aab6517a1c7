/** The log: one line per event in three formats, the words of ECS in one of them, and never what must not be seen. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { Writable } from 'node:stream'
import { describe, expect, inject, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { createLog, type Log } from '../src/log.ts'
import { rootKey } from './support/app.ts'
import { spawnGateway } from './support/gateway.ts'
import { eventually } from './support/postgres.ts'
import { startSink, status } from './support/sink.ts'
import { watched } from './support/watched.ts'

const formats = ['pretty', 'json', 'ecs'] as const
const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

type Written = { log: Log; format: (typeof formats)[number]; level: (typeof levels)[number]; text(): string }

function written(format: Written['format'], level: Written['level'] = 'info'): Written {
  let text = ''
  const stream = new Writable({
    write(chunk, _encoding, done) {
      text += chunk
      done()
    },
  })
  const log = createLog({ logFormat: format, logLevel: level }, stream)
  return { log, format, level, text: () => text }
}

const jsonLines = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)

const everywhere = formats.flatMap((format) => levels.map((level) => written(format, level)))

describe('what must not be seen', () => {
  /** Stands for a secret wherever one may be. */
  const mark = 'hunter2'

  test('is not in the log, whatever its format and level: keys, bodies, receipts, secrets, addresses with passwords', async () => {
    const raw: unknown[] = []
    const tell = (line: Record<string, unknown>) => {
      raw.push(line)
      for (const { log } of everywhere) log.line(line)
    }
    const wrong = Object.assign(new Error('duplicate key'), {
      name: 'PostgresError',
      detail: `(${mark})`,
      parameters: [mark],
    })
    const app = await watched({
      rootKey,
      open: false,
      log: tell,
      events: (event, fields) => {
        raw.push(fields)
        for (const { log } of everywhere) log.event(event, fields)
      },
      broken: (broker: Broker) => ({
        send: (queue, messages, more) =>
          queue === 'broken'
            ? Promise.reject(new Error('failed', { cause: wrong }))
            : broker.send(queue, messages, more),
      }),
    })
    const sink = await startSink((hit, response) => status(hit.body.includes('fails') ? 500 : 200)(hit, response))
    const { url, port } = await app.listen({ log: tell })
    const secrets = [rootKey]
    let key = rootKey
    const call = async (method: string, path: string, body?: string | object, headers: Record<string, string> = {}) => {
      const type = typeof body === 'object' ? 'application/json' : 'text/plain'
      const answer = await fetch(`${url}${path}`, {
        method,
        headers: { authorization: `Bearer ${key}`, 'content-type': type, ...headers },
        ...(body === undefined ? {} : { body: typeof body === 'object' ? JSON.stringify(body) : body }),
      })
      const text = await answer.text()
      return { status: answer.status, json: (text.startsWith('{') ? JSON.parse(text) : {}) as Record<string, string> }
    }
    const receive = async (): Promise<string> => {
      const { json } = await call('POST', '/v1/queues/q/receive?wait=5s')
      const [message] = json.messages as unknown as { receipt: string }[]
      secrets.push(message?.receipt ?? 'nothing was received')
      return message?.receipt ?? ''
    }

    const scopes = [{ actions: ['send', 'receive', 'read', 'manage'], queues: ['*'], topics: ['*'] }]
    const made = await call('POST', '/v1/keys', { name: 'k', scopes })
    key = made.json.key ?? ''
    secrets.push(key)
    await call('PUT', '/v1/queues/q', {})
    await call('GET', '/v1/queues', undefined, { authorization: `Bearer ${mark}` })
    const more = { 'postern-header-x': mark, 'idempotency-key': mark, cookie: mark, 'user-agent': mark }
    for (let n = 0; n < 5; n++)
      await call('POST', `/v1/queues/q/messages?key=${mark}`, mark, { ...more, 'idempotency-key': `${mark}${n}` })
    await call('DELETE', `/v1/leases/${await receive()}`)
    await call('PATCH', `/v1/leases/${await receive()}`, { lease: '1m' })
    await call('POST', `/v1/leases/${await receive()}/nack`, { [mark]: mark })
    await call('GET', `/v1/lease/${await receive()}`)
    await call('POST', '/v1/queues/q/settle', { reject: [{ receipt: await receive(), reason: mark }] })
    await call('POST', '/v1/queues/q/settle', `{"ack":["${mark}`, { 'content-type': 'application/json' })
    await call('POST', `/v1/queues/q/keys/${mark}/unblock`, { action: 'drop' })
    await call('GET', `/v1/queues/q?${mark}=${mark}`)
    expect((await call('POST', '/v1/queues/broken/messages', mark)).status).toBe(500)

    const address = `${sink.url}/${mark}?token=${mark}`
    const hook = { queue: 'q', url: address, headers: { authorization: mark }, retry: { schedule: ['10ms'] } }
    const subscription = await call('POST', '/v1/subscriptions', hook)
    expect(subscription.status).toBe(201)
    secrets.push(subscription.json.secret ?? '')
    const ofHook = `/v1/subscriptions/${subscription.json.id}`
    secrets.push((await call('POST', `${ofHook}/rotate_secret`, {})).json.secret ?? '')
    await call('GET', `${ofHook}/secret`)
    expect((await call('POST', '/v1/subscriptions', { queue: 'q', url: `http://u:${mark}@example.com/` })).status).toBe(
      422,
    )
    await call('POST', '/v1/queues/q/messages', `${mark} fails`)
    app.push.start()
    await eventually(() => raw.filter((line) => JSON.stringify(line).includes('"verdict":"retry"')).length > 0)
    const socket = connect(port, '127.0.0.1')
    socket.write(`${mark} ${mark}\r\n\r\n`)
    await once(socket.resume(), 'close')
    const { status: gone } = await call('GET', `//${mark.repeat(10)}`)
    expect(gone).toBe(404)

    await app.stop()
    await sink.close()
    for (const { log } of everywhere) sayAll(log)
    // Pretty lines come a little later.
    for (const { log, text, level } of everywhere) {
      log.fatal('the last line')
      await eventually(() => level === 'silent' || text().includes('the last line'))
    }

    // So that it can fail: what the log was given had it.
    expect(JSON.stringify(raw) + String(wrong.detail)).toContain(mark)
    expect(secrets.every((secret) => secret.length > 10)).toBe(true)
    for (const { text, format, level } of everywhere) {
      for (const secret of [mark, ...secrets])
        expect(text().includes(secret), `${format} ${level}: ${secret}`).toBe(false)
      if (level === 'info') expect(text().split('\n').length, format).toBeGreaterThan(20)
      if (level === 'silent') expect(text()).toBe('')
    }
  })

  /** Under each name, at each depth and in each kind of value that somebody might hand to the log one day. */
  function sayAll(log: Log): void {
    const names = ['body', 'response_body', 'key', 'rootKey', 'root_key', 'receipt', 'secret', 'password', 'token']
    const more = ['authorization', 'cookie', 'headers', 'request_headers', 'databaseUrl', 'requestBody']
    const fields = Object.fromEntries([...names, ...more].map((name) => [name, mark]))
    const texts = [
      `postgres://u:${mark}@h/d`,
      `Bearer ${mark}`,
      `whsec_${mark}`,
      `postern_0123456789abcdef_${mark.padEnd(43, 'x')}`,
    ]
    const error = new Error(`cannot reach ${texts[0]}`, { cause: new Error(texts.join(' ')) })
    for (const level of ['event', 'line', 'fatal'] as const) {
      const all = { ...fields, texts, deep: { ...fields, deeper: { list: [fields, texts] } }, bytes: Buffer.from(mark) }
      if (level === 'line') log.line({ event: 'said', status: 500, ...all, error: `${error.stack}` })
      else log[level]('said', { ...all, error })
    }
  }

  test.each(formats)('is not in what a gateway prints that cannot start: %s', async (format) => {
    const url = inject('postgresUrl')
      .replace(/\/\/[^@]*@/, `//postgres:${mark}@`)
      .replace(/\/postgres$/, '/nowhere')
    expect(url).toContain(mark)
    const { output, exited } = spawnGateway({
      DATABASE_URL: url,
      LOG_FORMAT: format,
      POSTERN_ROOT_KEY: `${mark}-and-more`,
    })
    expect(await exited).toBe(1)
    expect(output()).toContain('cannot start')
    expect(output()).not.toContain(mark)
  })
})

describe('ecs', () => {
  /** Of https://www.elastic.co/docs/reference/ecs/ecs-field-reference, as far as we say them, with their types. */
  const known: Record<string, 'keyword' | 'long' | 'date' | 'list'> = {
    '@timestamp': 'date',
    'client.address': 'keyword',
    'ecs.version': 'keyword',
    'error.code': 'keyword',
    'error.message': 'keyword',
    'error.stack_trace': 'keyword',
    'error.type': 'keyword',
    'event.action': 'keyword',
    'event.category': 'list',
    'event.dataset': 'keyword',
    'event.duration': 'long',
    'event.kind': 'keyword',
    'event.outcome': 'keyword',
    'event.type': 'list',
    'host.hostname': 'keyword',
    'http.request.body.bytes': 'long',
    'http.request.id': 'keyword',
    'http.request.method': 'keyword',
    'http.response.body.bytes': 'long',
    'http.response.status_code': 'long',
    'log.level': 'keyword',
    message: 'keyword',
    'process.pid': 'long',
    'service.name': 'keyword',
    'service.version': 'keyword',
    'trace.id': 'keyword',
    'url.full': 'keyword',
    'url.path': 'keyword',
    'user.id': 'keyword',
  }

  function holds(type: (typeof known)[string] | undefined, value: unknown): boolean {
    if (type === 'long') return Number.isInteger(value)
    if (type === 'list') return Array.isArray(value)
    if (type === 'date') return !Number.isNaN(Date.parse(String(value)))
    return typeof value === 'string'
  }

  function lineOf(say: (log: Log) => void): Record<string, unknown> {
    const { log, text } = written('ecs')
    say(log)
    const [line = {}] = jsonLines(text())
    for (const [field, value] of Object.entries(line))
      if (!field.startsWith('postern.')) expect([field, holds(known[field], value)]).toEqual([field, true])
    return line
  }

  test('a request says what ECS has a name for under that name, and the rest under ours', async () => {
    const { log, text } = written('ecs')
    const app = await watched({ log: log.line })
    const { url } = await app.listen()
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    await fetch(`${url}/v1/queues/orders`, { method: 'PUT' })
    await fetch(`${url}/v1/queues/orders/messages`, { method: 'POST', body: 'four', headers: { traceparent } })
    await app.stop()
    const line = jsonLines(text())[1] ?? {}
    for (const [field, value] of Object.entries(line))
      if (!field.startsWith('postern.')) expect([field, holds(known[field], value)]).toEqual([field, true])
    expect(line).toMatchObject({
      'log.level': 'info',
      message: 'request',
      'event.action': 'request',
      'event.category': ['web'],
      'event.outcome': 'success',
      'http.request.method': 'POST',
      'http.request.body.bytes': 4,
      'http.response.status_code': 201,
      'url.path': '/v1/queues/orders/messages',
      'trace.id': '4bf92f3577b34da6a3ce929d0e0e4736',
      'client.address': '127.0.0.1',
      'service.name': 'postern',
      'user.id': 'root',
      'postern.queue': 'orders',
      'postern.route': '/v1/queues/{queue}/messages',
    })
    expect(line['event.duration']).toBeGreaterThan(1000)
  })

  test('durations are nanoseconds, refusals are failures, and what is null is left out', () => {
    const line = lineOf((log) =>
      log.line({ event: 'request', status: 404, duration_ms: 1.25, principal: null, code: 'queue_not_found' }),
    )
    expect(line).toMatchObject({
      'event.duration': 1_250_000,
      'event.outcome': 'failure',
      'error.code': 'queue_not_found',
    })
    expect(line).not.toHaveProperty('user.id')
  })

  test('an error is told with what lies behind it, and without its other properties', () => {
    const cause = Object.assign(new TypeError('the disk'), { code: 'EIO', detail: 'a row' })
    const line = lineOf((log) => log.event('failed', { error: new Error('no write', { cause }) }))
    expect(line).toMatchObject({
      'log.level': 'warn',
      'event.outcome': 'failure',
      'error.type': 'Error',
      'error.message': 'no write',
    })
    expect(line['error.stack_trace']).toMatch(/^Error: no write\n {4}at [\s\S]*caused by: TypeError: the disk\n {4}at /)
    expect(JSON.stringify(line)).not.toContain('a row')
    const told = lineOf((log) => log.line({ event: 'request', status: 500, error: `Error: x\n    at y` }))
    expect(told).toMatchObject({ 'error.message': 'Error: x', 'error.stack_trace': 'Error: x\n    at y' })
  })

  test('an attempt is told by its verdict, and its message id is not the message of the line', () => {
    const attempt = { subscription: 'sub_1', message_id: 'msg_1', verdict: 'retry', status: 500, failure: 'HTTP 500' }
    expect(lineOf((log) => log.event('webhook attempt', attempt))).toMatchObject({
      message: 'webhook attempt',
      'event.outcome': 'failure',
      'error.message': 'HTTP 500',
      'http.response.status_code': 500,
      'postern.subscription': 'sub_1',
      'postern.message_id': 'msg_1',
    })
  })
})

test('json has the same under our names', () => {
  const { log, text } = written('json')
  log.line({ event: 'request', status: 200, queue: 'q', deep: { list: [{ key: 'k' }, 1] } })
  log.event('failed', { error: new Error('x', { cause: Object.assign(new Error('y'), { code: 'Z' }) }) })
  const [request, failed] = jsonLines(text())
  expect(request).toMatchObject({
    level: 'info',
    msg: 'request',
    status: 200,
    deep: { list: [{ key: '(redacted)' }, 1] },
  })
  expect(failed).toMatchObject({
    level: 'warn',
    event: 'failed',
    err: { message: 'x', cause: { message: 'y', code: 'Z' } },
  })
})

test('a level hides what is less severe', () => {
  const { log, text } = written('json', 'warn')
  log.line({ event: 'request', status: 200 })
  log.event('fine')
  log.line({ event: 'request', status: 503 })
  log.event('failed', { error: 'x' })
  expect(jsonLines(text()).map(({ level }) => level)).toEqual(['error', 'warn'])
})
