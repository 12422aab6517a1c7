/** Health, readiness, the description, and the form that every answer has, errors above all. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BrokerError, problem } from '../src/model/index.ts'
import { refusal, rootKey, type TestApp, testApp } from './support/app.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp({ rootKey, open: false })
})
afterAll(() => app.stop())
const asRoot = { headers: { authorization: `Bearer ${rootKey}` } }

describe('health', () => {
  test('the process is alive, whatever else is asked', async () => {
    expect(await (await app.request('/healthz')).json()).toEqual({ status: 'ok' })
    expect((await app.request('/healthz', { headers: { authorization: 'Bearer wrong' } })).status).toBe(200)
    expect((await app.request('/healthz', { method: 'HEAD' })).status).toBe(200)
  })

  test('details of readiness are shown only with a key', async () => {
    expect(await (await app.request('/readyz')).json()).toEqual({ status: 'ready' })
    expect(await (await app.request('/readyz?verbose')).json()).toEqual({ status: 'ready' })
    const verbose = await app.request('/readyz?verbose', asRoot)
    expect(await verbose.json()).toMatchObject({ status: 'ready', version: '0.0.0-test', problems: expect.any(Array) })
    expect((await app.request('/readyz?verbose', { headers: { authorization: 'Bearer wrong' } })).status).toBe(401)
  })

  test('what is wrong is named only to whom it concerns; what does not keep it from serving leaves it ready', async () => {
    let found = [problem('bloat', 'messages is bloated'), problem('database_slow', 'Postgres dozes')]
    const diagnosis = { ready: async () => found, all: async () => found }
    const sick = await testApp({
      rootKey,
      open: false,
      broken: (broker) => ({ admin: { ...broker.admin, diagnosis } }),
    })
    const blind = await sick.request('/readyz?verbose')
    expect(Number(blind.headers.get('retry-after'))).toBeGreaterThan(0)
    const told = (await blind.json()) as { code: string; detail: string; problems?: unknown }
    expect([blind.status, told.code, told.problems]).toEqual([503, 'unavailable', undefined])
    expect(told.detail).not.toContain('dozes')
    const seen = (await (await sick.request('/readyz?verbose', asRoot)).json()) as Record<string, unknown>
    expect(seen).toMatchObject({ detail: 'Postgres dozes', problems: [{ code: 'bloat' }, { code: 'database_slow' }] })
    found = found.slice(0, 1)
    expect(await (await sick.request('/readyz', asRoot)).json()).toEqual({ status: 'ready' })
    const slow = await sick.request('/readyz?verbose', asRoot)
    expect(await slow.json()).toMatchObject({ status: 'ready', problems: [{ code: 'bloat', since: null }] })
    await sick.stop()
  })
})

describe('the description', () => {
  test('is served as OpenAPI 3.1', async () => {
    const answer = await app.request('/openapi.json')
    expect(await answer.json()).toMatchObject({ openapi: '3.1.0', paths: { '/v1/queues/{queue}/messages': {} } })
  })

  test('its page needs nothing from anywhere else', async () => {
    const page = await app.request('/docs')
    expect(page.headers.get('content-security-policy')).toContain("default-src 'none'")
    const html = await page.text()
    expect(html).not.toMatch(/https?:/)
    const files = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, file]) => file)
    expect(files.length).toBeGreaterThan(2)
    for (const file of files) {
      const answer = await app.request(`/${file}`)
      expect(answer.status, file).toBe(200)
      expect((await answer.arrayBuffer()).byteLength).toBeGreaterThan(50)
    }
  })

  test.each(['package.json', '..%2fpackage.json', '__proto__', 'toString', 'index.html'])(
    'no other file is: %s',
    async (file) => {
      expect(await refusal(await app.request(`/docs/${file}`))).toMatchObject({ status: 404 })
    },
  )
})

describe('every answer', () => {
  test('has a request id: the one that was sent, when it is a plain word', async () => {
    const idOf = async (given?: string) => {
      const headers = given === undefined ? {} : { 'postern-request-id': given }
      return (await app.request('/nowhere', { headers })).headers.get('postern-request-id')
    }
    expect(await idOf('My.Id_1-2')).toBe('My.Id_1-2')
    for (const given of [undefined, 'a b', 'ü', '<x>', 'x'.repeat(65)]) {
      expect(await idOf(given)).toMatch(/^req_[a-z0-9_]+$/)
    }
    expect(await idOf()).not.toBe(await idOf())
  })

  test('is one line in the log, without what was asked', async () => {
    const before = app.lines.length
    await app.request('/v1/queues/logged?secret=hunter2', asRoot)
    expect(app.lines.slice(before)).toEqual([
      expect.objectContaining({
        event: 'request',
        method: 'GET',
        route: '/v1/queues/{queue}',
        path: '/v1/queues/logged',
        status: 422,
        code: 'invalid_value',
        principal: 'root',
        queue: 'logged',
        bytes_in: 0,
        bytes_out: expect.any(Number),
        duration_ms: expect.any(Number),
        request_id: expect.any(String),
      }),
    ])
    expect(JSON.stringify(app.lines.slice(before))).not.toContain('hunter2')
  })

  test('is not to be stored or sniffed', async () => {
    const { headers } = await app.request('/v1/queues', asRoot)
    expect([headers.get('cache-control'), headers.get('x-content-type-options')]).toEqual(['no-store', 'nosniff'])
  })
})

describe('errors', () => {
  test('an unknown path is 404, also under a known one', async () => {
    for (const path of [
      '/',
      '/v1',
      '/v1/queues/',
      '/v1/queues/a/b',
      '/v1/nothing',
      '/v1/leases/a/b/c',
      '//v1/queues',
    ]) {
      expect(await refusal(await app.request(path)), path).toMatchObject({ status: 404, code: 'not_found' })
    }
    expect((await app.request('/v1/leases/a-receipt/b')).status).toBe(404)
    expect(JSON.stringify(app.lines)).not.toContain('a-receipt')
  })

  test('another method is 405 with those that are allowed; OPTIONS tells them', async () => {
    const wrong = await app.request('/v1/queues/x', { method: 'PATCH' })
    expect(wrong.headers.get('allow')).toBe('DELETE, GET, HEAD, OPTIONS, PUT')
    expect(await refusal(wrong)).toMatchObject({ status: 405, code: 'method_not_allowed' })
    expect((await app.request('/v1/queues/x/receive')).headers.get('allow')).toBe('OPTIONS, POST')
    expect((await app.request('/v1/queues/x/receive', { method: 'HEAD' })).status).toBe(405)
    const options = await app.request('/v1/queues/x/receive', { method: 'OPTIONS' })
    expect([options.status, options.headers.get('allow')]).toEqual([204, 'OPTIONS, POST'])
    expect((await app.request('/nowhere', { method: 'OPTIONS' })).status).toBe(404)
  })

  test('what nobody expected is a 500 that tells nothing, and the log everything', async () => {
    const bad = await testApp({
      broken: () => ({
        send: () => Promise.reject(new Error('secret inner working', { cause: new Error('the disk') })),
      }),
    })
    const answer = await bad.request('/v1/queues/x/messages', { method: 'POST', body: 'x' })
    const text = await answer.clone().text()
    expect(text).not.toContain('secret')
    expect(await refusal(answer)).toMatchObject({ status: 500, code: 'internal' })
    expect(text).toContain(String(bad.lines.at(-1)?.request_id))
    expect(bad.lines.at(-1)?.error).toMatch(/secret inner working[\s\S]*the disk/)
    await bad.stop()
  })

  test('a database that is away is 503 with the time to come back', async () => {
    const away = await testApp({
      broken: () => ({
        send: () =>
          Promise.reject(new BrokerError('unavailable', 'The database is out of reach.', { retryAfterS: 2.5 })),
      }),
    })
    const answer = await away.request('/v1/queues/x/messages', { method: 'POST', body: 'x' })
    expect(answer.headers.get('retry-after')).toBe('3')
    expect(await refusal(answer)).toMatchObject({ status: 503, code: 'unavailable' })
    await away.stop()
  })
})
