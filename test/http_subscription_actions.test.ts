/** What is done with webhook subscriptions over HTTP: switched, tried, given new secrets, delivered once more, looked into. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Attempt } from '../src/model/index.ts'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'

type Fields = Record<string, unknown>
const url = 'https://example.com/hooks'
const path = '/v1/subscriptions'
const made: Attempt = {
  id: 'att_1',
  messageId: 'msg_test_1',
  attempt: 0,
  at: new Date('2030-01-01T00:00:00Z'),
  outcome: 'succeeded',
  status: 204,
  durationMs: 12,
  requestHeaders: { Authorization: 'Bearer s3cret', 'webhook-id': 'msg_test_1' },
  responseHeaders: { server: 'x' },
  responseBody: Buffer.from('ok'),
  error: null,
  nextAttemptAt: null,
}

let app: TestApp
const tested: string[] = []
beforeAll(async () => {
  app = await testApp({
    async testWebhook(id) {
      tested.push(id)
      return made
    },
  })
  for (const name of ['work', 'other']) {
    await app.request(`/v1/queues/${name}`, { method: 'PUT' })
    await app.request(`/v1/topics/${name}`, { method: 'PUT' })
  }
})
afterAll(() => app.stop())

const read = async (answer: Response) => (await answer.json()) as Fields
const create = (json: unknown, on = app) => on.request(path, { method: 'POST', json })
/** A new one; on the topic `work` unless `more` says otherwise. */
async function subscription(more: Fields = {}): Promise<Fields & { id: string; backlog_queue: string }> {
  const answer = await create({ url, ...('queue' in more ? {} : { topic: 'work' }), ...more })
  expect(answer.status).toBe(201)
  return (await read(answer)) as Fields & { id: string; backlog_queue: string }
}
const act = (id: string, action: string, json?: unknown) =>
  app.request(`${path}/${id}/${action}`, { method: 'POST', ...(json === undefined ? {} : { json }) })
const look = async (id: string) => read(await app.request(`${path}/${id}`))
async function publish(body: string, query = ''): Promise<Response> {
  const answer = await app.request(`/v1/topics/work/messages${query}`, { method: 'POST', body: Buffer.from(body) })
  expect(answer.status).toBe(202)
  return answer
}
const bodiesIn = async (queue: string, state = 'ready') => {
  const answer = await app.request(`/v1/queues/${queue}/messages?state=${state}`)
  return ((await answer.json()) as { data: { body: string }[] }).data.map(({ body }) => body)
}

describe('what is done with one', () => {
  test('it is deleted once, with its backlog', async () => {
    const { id, backlog_queue: backlog } = await subscription()
    await publish('x')
    const remove = () => app.request(`${path}/${id}`, { method: 'DELETE' })
    expect((await remove()).status).toBe(204)
    expect((await remove()).status).toBe(404)
    expect((await app.request(`/v1/queues/${backlog}`)).status).toBe(404)
  })

  test('it goes with its queue, and with its topic', async () => {
    await app.request('/v1/queues/brief', { method: 'PUT' })
    await app.request('/v1/topics/brief', { method: 'PUT' })
    const onQueue = await subscription({ queue: 'brief' })
    const onTopic = await subscription({ topic: 'brief' })
    await app.request('/v1/queues/brief', { method: 'DELETE' })
    expect((await app.request(`${path}/${onQueue.id}`)).status).toBe(404)
    await app.request('/v1/topics/brief', { method: 'DELETE' })
    expect((await app.request(`${path}/${onTopic.id}`)).status).toBe(404)
  })

  test('disabled, it goes on collecting; enabled, it is as before', async () => {
    const { id, backlog_queue: backlog } = await subscription({ pattern: 'switched' })
    const disabled = await act(id, 'disable')
    expect(disabled.status).toBe(200)
    expect(await read(disabled)).toMatchObject({ id, status: 'disabled', disabled_reason: 'requested' })
    await publish('x', '?routing_key=switched')
    expect(await bodiesIn(backlog)).toEqual(['x'])
    expect(await read(await act(id, 'enable'))).toMatchObject({ id, status: 'enabled', disabled_reason: null })
  })

  test('a test answers with what came of it, without its secrets', async () => {
    const { id } = await subscription()
    const answer = await act(id, 'test')
    expect(answer.status).toBe(200)
    expect(await read(answer)).toEqual({
      id: 'att_1',
      message_id: 'msg_test_1',
      attempt: 0,
      at: '2030-01-01T00:00:00.000Z',
      outcome: 'succeeded',
      status: 204,
      duration_ms: 12,
      request_headers: { Authorization: '(hidden)', 'webhook-id': 'msg_test_1' },
      response_headers: { server: 'x' },
      response_body: 'ok',
      error: null,
      next_attempt_at: null,
    })
    expect(tested.at(-1)).toBe(id)
  })

  test('a gateway that does not push answers a test with 503', async () => {
    const without = await testApp()
    await without.request('/v1/queues/q', { method: 'PUT' })
    const { id } = await read(await create({ queue: 'q', url }, without))
    const answer = await without.request(`${path}/${id}/test`, { method: 'POST' })
    expect(await refusal(answer)).toMatchObject({ status: 503, code: 'unavailable' })
    await without.stop()
  })

  test('five secrets sign at most', async () => {
    const { id } = await subscription({ pattern: 'rotated' })
    const rotated: string[] = []
    for (let n = 0; n < 6; n++) rotated.push(String((await read(await act(id, 'rotate_secret'))).secret))
    const { secret, previous } = (await read(await app.request(`${path}/${id}/secret`))) as {
      secret: string
      previous: Fields[]
    }
    expect([secret, ...previous.map((each) => each.secret)]).toEqual(rotated.slice(1).reverse())
  })

  test('a rotated secret signs on until its grace is over', async () => {
    const { id, secret: first } = await subscription()
    const secrets = async () => read(await app.request(`${path}/${id}/secret`))
    expect(await secrets()).toEqual({ secret: first, previous: [] })
    const rotated = await act(id, 'rotate_secret', { grace: '1h' })
    expect(rotated.status).toBe(200)
    const { secret: second, previous } = (await read(rotated)) as { secret: string; previous: Fields[] }
    expect(second).toMatch(/^whsec_[A-Za-z0-9+/]{32}$/)
    expect(previous).toEqual([{ created_at: expect.any(String), expires_at: expect.any(String) }])
    const endsInMs = Date.parse(String(previous[0]?.expires_at)) - Date.now()
    expect(Math.abs(endsInMs - 3_600_000)).toBeLessThan(60_000)
    expect(await secrets()).toEqual({
      secret: second,
      previous: [{ secret: first, expires_at: previous[0]?.expires_at }],
    })
    const third = await read(await act(id, 'rotate_secret'))
    expect(third.previous).toHaveLength(2)
    const standard = (third.previous as Fields[]).map(({ expires_at: at }) => Date.parse(String(at)) - Date.now())
    expect(Math.abs(Math.max(...standard) - 86_400_000)).toBeLessThan(60_000)
    const bare = await subscription()
    expect(await read(await act(bare.id, 'rotate_secret', { grace: 0 }))).toMatchObject({ previous: [] })
  })

  test.each<[string, unknown, string]>([
    ['rotate_secret', { grace: '31d' }, '/grace'],
    ['rotate_secret', { grace: null }, '/grace'],
    ['rotate_secret', { wat: 1 }, '/wat'],
    ['rotate_secret', [], ''],
    ['replay', { state: 'ready' }, '/state'],
    ['replay', { from: 'yesterday' }, '/from'],
    ['replay', { to: 7 }, '/to'],
    ['replay', { from: '2030-01-02T00:00:00Z', to: '2030-01-01T00:00:00Z' }, '/to'],
    ['replay', { wat: 1 }, '/wat'],
    ['replay', [], ''],
  ])('%s with %j is refused by name', async (action, json, pointer) => {
    const { id } = await subscription()
    expect(await refusal(await act(id, action, json))).toEqual(invalidField(pointer))
  })

  test.each(['rotate_secret', 'replay'])('%s takes JSON and not too much of it', async (action) => {
    const { id } = await subscription()
    const send = (body: string, type: string) =>
      app.request(`${path}/${id}/${action}`, { method: 'POST', body, headers: { 'content-type': type } })
    expect(await refusal(await send('{', 'application/json'))).toMatchObject({ status: 400 })
    expect(await refusal(await send('{}', 'text/plain'))).toMatchObject({ status: 415 })
    expect(await refusal(await send(' '.repeat(10 * 1024 * 1024 + 1), ''))).toMatchObject({ status: 413 })
  })
})

describe('POST /v1/subscriptions/{id}/replay', () => {
  const replay = async (id: string, json?: unknown) => {
    const answer = await act(id, 'replay', json)
    expect(answer.status).toBe(202)
    return (await read(answer)).replayed
  }
  /** Makes dead letters of all that is ready. */
  async function killAll(queue: string): Promise<void> {
    for (const { receipt } of await app.receive(queue, '?max=100'))
      await app.request(`/v1/leases/${receipt}/reject`, { method: 'POST' })
  }

  test('dead letters are ready again', async () => {
    const { id, backlog_queue: backlog } = await subscription({ pattern: 'dead' })
    await publish('one', '?routing_key=dead')
    await publish('two', '?routing_key=dead')
    await killAll(backlog)
    expect(await look(id)).toMatchObject({ counts: { ready: 0, dead: 2 } })
    expect(await replay(id, { state: 'dead', to: '2001-01-01T00:00:00Z' })).toBe(0)
    expect(await replay(id)).toBe(2)
    expect((await bodiesIn(backlog)).sort()).toEqual(['one', 'two'])
    expect(await replay(id, { state: 'dead' })).toBe(0)
  })

  test('what the topic has kept is delivered once more, by the interest of now', async () => {
    const { id, backlog_queue: backlog } = await subscription({ pattern: 'past' })
    await publish('one', '?routing_key=past')
    await publish('two', '?routing_key=not.past')
    const received = await app.receive(backlog, '?max=10')
    expect(received).toHaveLength(1)
    await app.request(`/v1/leases/${received[0]?.receipt}`, { method: 'DELETE' })
    expect(await replay(id, { from: '2001-01-01T00:00:00Z' })).toBe(1)
    expect(await bodiesIn(backlog)).toEqual(['one'])
    expect(await replay(id, { state: 'past', to: '2001-01-01T00:00:00Z' })).toBe(0)
    expect(await replay(id, { from: '2999-01-01T00:00:00Z' })).toBe(0)
  })

  test('a queue keeps no past messages', async () => {
    const { id } = await subscription({ queue: 'other' })
    expect(await refusal(await act(id, 'replay', { state: 'past' }))).toEqual(invalidField('/state'))
    await app.send('other', 'x')
    await killAll('other')
    expect(await replay(id)).toBe(1)
  })
})

describe('GET /v1/subscriptions/{id}/attempts', () => {
  test('calls are listed newest first, by outcome', async () => {
    const { id } = await subscription({ pattern: 'tried' })
    const { id: messageId } = await read(await publish('x', '?routing_key=tried'))
    const { number } = await app.broker.desk.find(id)
    const { id: _, ...sample } = made
    const report = (more: Partial<Attempt>) =>
      app.broker.desk.recordAttempts([{ ...sample, messageId: String(messageId), subscription: number, ...more }])
    await report({
      attempt: 1,
      outcome: 'failed',
      status: null,
      error: 'timeout',
      responseBody: Buffer.alloc(0),
      responseHeaders: {},
      nextAttemptAt: new Date('2030-01-01T00:00:05Z'),
    })
    await report({ attempt: 2, outcome: 'failed', status: 500, responseBody: Buffer.from([0xff]), error: 'HTTP 500' })
    await report({ attempt: 3, responseBody: Buffer.from(`${'x'.repeat(16_382)}é…`).subarray(0, 16_384) })
    await report({ attempt: 4, responseBody: Buffer.from(`${'x'.repeat(16_383)}é`).subarray(0, 16_384) })
    type Page = { data: Fields[]; next_cursor: string | null }
    const list = async (query = '') => (await (await app.request(`${path}/${id}/attempts${query}`)).json()) as Page
    const { data } = await list()
    expect(data.map(({ attempt }) => attempt)).toEqual([4, 3, 2, 1])
    expect(data[0]?.response_body).toBe('x'.repeat(16_383))
    expect(data[1]?.response_body).toBe(`${'x'.repeat(16_382)}é`)
    expect(data[2]).toMatchObject({ status: 500, response_body_base64: '/w==' })
    expect(data[2]).not.toHaveProperty('response_body')
    expect(data[3]).toEqual({
      id: expect.any(String),
      message_id: messageId,
      attempt: 1,
      at: '2030-01-01T00:00:00.000Z',
      outcome: 'failed',
      status: null,
      duration_ms: 12,
      request_headers: { Authorization: '(hidden)', 'webhook-id': 'msg_test_1' },
      response_headers: {},
      response_body: '',
      error: 'timeout',
      next_attempt_at: '2030-01-01T00:00:05.000Z',
    })
    expect((await list('?status=failed')).data.map(({ attempt }) => attempt)).toEqual([2, 1])
    expect((await list('?status=succeeded')).data.map(({ attempt }) => attempt)).toEqual([4, 3])
    const first = await list('?limit=3')
    const next = await list(`?limit=3&cursor=${encodeURIComponent(first.next_cursor ?? '')}`)
    expect([next.data.map(({ attempt }) => attempt), next.next_cursor]).toEqual([[1], null])
  })

  test.each([
    ['status=500', 'query/status'],
    ['limit=0', 'query/limit'],
    ['wat=1', 'query/wat'],
  ])('?%s is refused by name', async (query, pointer) => {
    const { id } = await subscription()
    expect(await refusal(await app.request(`${path}/${id}/attempts?${query}`))).toEqual(invalidField(pointer))
  })
})
