/** Changing one message that nobody holds: what can change in which state, and what is refused by name. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'
import { eventually } from './support/postgres.ts'

type Fields = Record<string, unknown>
const maxBodyBytes = 2000
let app: TestApp
beforeAll(async () => {
  app = await testApp({ maxBodyBytes })
  await put('box')
})
afterAll(() => app.stop())

const put = (name: string, json: unknown = {}) => app.request(`/v1/queues/${name}`, { method: 'PUT', json })
const read = async (answer: Response) => (await answer.json()) as Fields
const at = (queue: string, id: string) => `/v1/queues/${queue}/messages/${id}`
const look = async (queue: string, id: string) => read(await app.request(at(queue, id)))
const patch = (queue: string, id: string, json: unknown) => app.request(at(queue, id), { method: 'PATCH', json })
/** What is answered is what is stored. */
async function change(queue: string, id: string, json: unknown): Promise<Fields> {
  const answer = await patch(queue, id, json)
  expect(answer.status).toBe(200)
  const changed = await read(answer)
  expect(changed).toEqual(await look(queue, id))
  return changed
}
async function send(queue: string, body: string, query = '', headers: Record<string, string> = {}): Promise<string> {
  const init = { method: 'POST', body: Buffer.from(body), headers: { 'content-type': 'text/plain', ...headers } }
  return String((await read(await app.request(`/v1/queues/${queue}/messages${query}`, init))).id)
}
const ageMs = (message: Fields, from: string, to: string) =>
  Date.parse(String(message[to])) - Date.parse(String(message[from]))
const order = async (queue: string) => (await app.receive(queue, '?max=10')).map(({ body }) => body)

describe('a ready message', () => {
  test('gets another body, type and headers, and keeps the rest with its id and place', async () => {
    await put('ready')
    const id = await send('ready', 'one', '?key=k', { 'Postern-Header-Tenant': 'acme' })
    await send('ready', 'two')
    const before = await look('ready', id)
    expect(await change('ready', id, { body: 'new' })).toEqual({ ...before, body: 'new' })
    expect(await change('ready', id, { content_type: 'text/x', headers: { A: 'b' } })).toEqual({
      ...{ ...before, body: 'new', content_type: 'text/x', headers: { a: 'b' } },
    })
    expect(await change('ready', id, { headers: null, content_type: null })).toMatchObject({
      ...{ headers: {}, content_type: 'application/octet-stream' },
    })
    expect(await order('ready')).toEqual(['new', 'two'])
  })

  test('a JSON value is kept as its text, bytes come as base64, null and nothing are bodies', async () => {
    const id = await send('box', 'x')
    const raw = (body: string) =>
      app.request(at('box', id), { method: 'PATCH', body, headers: { 'content-type': 'application/json' } })
    expect(await read(await raw('{"body": {"big": 12345678901234567890, "a": 1.00} }'))).toMatchObject({
      ...{ body: '{"big": 12345678901234567890, "a": 1.00}', content_type: 'text/plain' },
    })
    expect(await change('box', id, { body: null })).toMatchObject({ body: 'null' })
    expect(await change('box', id, { body: '' })).toMatchObject({ body: '' })
    expect(await change('box', id, { body_base64: '//4=' })).toMatchObject({ body_base64: '//4=' })
  })

  test('goes to another priority with its id, behind those that have it, and wakes who waits for it', async () => {
    await put('lanes')
    const low = await send('lanes', 'low', '?priority=1')
    await send('lanes', 'high', '?priority=9')
    await send('lanes', 'middle')
    expect(await change('lanes', low, { priority: 9 })).toMatchObject({ id: low, priority: 9, state: 'ready' })
    expect(await order('lanes')).toEqual(['high', 'low', 'middle'])
    const again = await send('lanes', 'x', '?priority=1')
    expect(await change('lanes', again, { priority: null })).toMatchObject({ priority: 5 })
  })

  test('that gets a delay is delayed from now on, its life along with it', async () => {
    await put('later')
    const id = await send('later', 'x', '?ttl=1h')
    const changed = await change('later', id, { delay: '2h', body: 'y', priority: 7 })
    expect(changed).toMatchObject({ id, state: 'delayed', body: 'y', priority: 7 })
    expect(Math.abs(ageMs(changed, 'available_at', 'expires_at') - 3_600_000)).toBeLessThan(5_000)
    expect(await order('later')).toEqual([])
    const soon = await send('later', 'soon')
    await change('later', soon, { delay: '300ms' })
    const [got] = await app.receive('later', '?wait=10s')
    expect(got).toMatchObject({ id: soon, attempt: 1 })
  })

  test('a copy of a publish gets a body of its own; the other copies keep theirs', async () => {
    const text = JSON.stringify({ text: 'x'.repeat(1500) })
    await app.request('/v1/topics/news', { method: 'PUT' })
    for (const name of ['copy1', 'copy2']) {
      await put(name)
      await app.request(`/v1/topics/news/bindings/${name}`, { method: 'PUT', json: { queue: name } })
    }
    const published = await app.request('/v1/topics/news/messages', { method: 'POST', body: Buffer.from(text) })
    const id = String((await read(published)).id)
    expect(await change('copy1', id, { priority: 6 })).toMatchObject({ body: text })
    expect(await change('copy1', id, { body: 'own' })).toMatchObject({ body: 'own' })
    expect(await look('copy2', id)).toMatchObject({ body: text })
  })
})

describe('in a queue with max_bytes', () => {
  test('a body that the queue has no room for is refused, and nothing changes; one that is smaller always fits', async () => {
    await put('bounded', { max_bytes: 100 })
    const ready = await send('bounded', 'x'.repeat(40))
    const delayed = await send('bounded', 'y'.repeat(40), '?delay=1h')
    for (const id of [ready, delayed]) {
      const before = await look('bounded', id)
      const answer = await patch('bounded', id, { body: 'z'.repeat(61), priority: 9 })
      expect(await refusal(answer)).toMatchObject({ status: 429, code: 'queue_full' })
      expect(await look('bounded', id)).toEqual(before)
    }
    await change('bounded', ready, { body: 'z'.repeat(60) })
    await put('bounded', { max_bytes: 50 })
    await change('bounded', ready, { body: 'z'.repeat(59) })
    await change('bounded', delayed, { priority: 9 })
    expect((await patch('bounded', delayed, { body: 'y'.repeat(41) })).status).toBe(429)
  })

  test('a dead letter takes no room, but must fit by itself', async () => {
    await put('bounded-dead', { max_bytes: 100 })
    const id = await send('bounded-dead', 'x')
    const [got] = await app.receive('bounded-dead')
    await app.request(`/v1/leases/${got?.receipt}/reject`, { method: 'POST', json: {} })
    await send('bounded-dead', 'x'.repeat(90))
    await change('bounded-dead', id, { body: 'y'.repeat(100) })
    expect((await patch('bounded-dead', id, { body: 'y'.repeat(101) })).status).toBe(429)
  })

  test('of two that would fit one by one, but not together, one is refused', async () => {
    await put('bounded-race', { max_bytes: 100 })
    const ids = [await send('bounded-race', 'x'), await send('bounded-race', 'x')]
    const statuses = await Promise.all(
      ids.map(async (id) => (await patch('bounded-race', id, { body: 'y'.repeat(60) })).status),
    )
    expect(statuses.sort()).toEqual([200, 429])
  })
})

describe('a delayed message', () => {
  test('is due at another time, earlier or later, or now', async () => {
    await put('delayed')
    const id = await send('delayed', 'x', '?delay=1h&ttl=1h')
    const sooner = await change('delayed', id, { delay: 60, body: 'y' })
    expect(sooner).toMatchObject({ state: 'delayed', body: 'y' })
    expect(Math.abs(ageMs(sooner, 'available_at', 'expires_at') - 3_600_000)).toBeLessThan(5)
    const later = await change('delayed', id, { deliver_at: '2031-01-01T00:00:00Z', priority: 8 })
    expect(later).toMatchObject({ available_at: '2031-01-01T00:00:00.000Z', priority: 8 })
    expect(await change('delayed', id, { body: 'z' })).toMatchObject({
      state: 'delayed',
      available_at: later.available_at,
    })
    const waiting = app.receive('delayed', '?wait=10s')
    expect((await patch('delayed', id, { delay: 0 })).status).toBe(200)
    const [got] = await waiting
    expect(got).toMatchObject({ id, body: 'z', priority: 8, attempt: 1 })
  })

  test.each([{ delay: null }, { deliver_at: null }, { deliver_at: '2020-01-01T00:00:00Z' }])(
    '%j makes it ready',
    async (json) => {
      const id = await send('box', 'x', '?delay=1h')
      expect(await change('box', id, json)).toMatchObject({ id, state: 'ready' })
      expect((await app.request(at('box', id), { method: 'DELETE' })).status).toBe(204)
    },
  )
})

describe('a dead letter', () => {
  test('is edited before it is redriven; it has no delay', async () => {
    await put('dead')
    const id = await send('dead', 'broken')
    const [got] = await app.receive('dead')
    await app.request(`/v1/leases/${got?.receipt}/reject`, { method: 'POST', json: { reason: 'unreadable' } })
    const json = { body: { fixed: true }, content_type: 'application/json', headers: { by: 'hand' }, priority: 9 }
    expect(await change('dead', id, json)).toMatchObject({
      ...{ state: 'dead', reason: 'rejected', last_error: 'unreadable', attempts: 1, origin: 'dead' },
      ...{ body: '{"fixed":true}', content_type: 'application/json', headers: { by: 'hand' }, priority: 9 },
    })
    expect(await refusal(await patch('dead', id, { delay: '1m', body: 'x' }))).toEqual(invalidField('/delay'))
    expect(await refusal(await patch('dead', id, { deliver_at: '2031-01-01T00:00:00Z' }))).toEqual(
      invalidField('/deliver_at'),
    )
    await app.request('/v1/queues/dead/redrive', { method: 'POST' })
    const [again] = await app.receive('dead', '?wait=5s')
    expect(again).toMatchObject({ id, body: '{"fixed":true}', headers: { by: 'hand' }, priority: 9, attempt: 1 })
  })
})

describe('on a keyed queue', () => {
  test('the first of its key and those behind it change, delay and all, and the order stays', async () => {
    await put('keyed', { order: 'keyed' })
    const ids: string[] = []
    for (const n of [1, 2, 3]) ids.push(await send('keyed', `${n}`, '?key=k'))
    const [first = '', second = ''] = ids
    await eventually(async () => (await look('keyed', first)).state === 'ready')
    expect(await change('keyed', second, { body: 'two', priority: 9 })).toMatchObject({
      key: 'k',
      body: 'two',
      priority: 9,
    })
    expect(await change('keyed', first, { delay: '400ms' })).toMatchObject({ state: 'delayed' })
    expect(await order('keyed')).toEqual([])
    for (const expected of ['1', 'two', '3']) {
      const [got] = await app.receive('keyed', '?wait=10s')
      expect(got?.body).toBe(expected)
      await app.request(`/v1/leases/${got?.receipt}`, { method: 'DELETE' })
    }
    expect(await refusal(await patch('keyed', first, { key: 'other' }))).toEqual(invalidField('/key'))
  })

  test('one behind the first that gets a delay holds its key until it is due', async () => {
    await put('held', { order: 'keyed' })
    const first = await send('held', '1', '?key=k')
    const second = await send('held', '2', '?key=k')
    await send('held', '3', '?key=k')
    await change('held', second, { delay: '1h' })
    const [got] = await app.receive('held', '?wait=5s')
    expect(got?.id).toBe(first)
    await app.request(`/v1/leases/${got?.receipt}`, { method: 'DELETE' })
    await eventually(async () => (await look('held', second)).state === 'delayed')
    expect(await order('held')).toEqual([])
    await change('held', second, { delay: 0 })
    const [next] = await app.receive('held', '?wait=5s')
    expect(next?.body).toBe('2')
  })
})

describe('refused', () => {
  test('a leased message is 409, and stays as it is', async () => {
    await put('leased')
    const id = await send('leased', 'x')
    const [got] = await app.receive('leased')
    expect(await refusal(await patch('leased', id, { body: 'y' }))).toMatchObject({
      status: 409,
      code: 'message_leased',
    })
    expect(await look('leased', id)).toMatchObject({ body: 'x', state: 'leased' })
    await app.request(`/v1/leases/${got?.receipt}/nack`, { method: 'POST' })
    // A retried one stays ahead of first deliveries of its priority.
    await send('leased', 'other')
    expect(await change('leased', id, { body: 'y' })).toMatchObject({ attempts: 1, state: 'ready' })
    expect(await order('leased')).toEqual(['y', 'other'])
  })

  test('what is not there is 404', async () => {
    const gone = await send('box', 'x')
    await app.request(at('box', gone), { method: 'DELETE' })
    for (const id of [gone, 'msg_zzzzzzzzzzz', 'nonsense'])
      expect(await refusal(await patch('box', id, { body: 'x' }))).toMatchObject({
        status: 404,
        code: 'message_not_found',
      })
    expect(await refusal(await patch('missing', gone, { body: 'x' }))).toMatchObject({ code: 'queue_not_found' })
  })

  test.each<[unknown, string]>([
    [{}, ''],
    [[], ''],
    [{ text: 'x' }, '/text'],
    [{ ttl: '1h' }, '/ttl'],
    [{ body: 'x', body_base64: 'eA==' }, '/body'],
    [{ body: '\ud800' }, '/body'],
    [{ body_base64: 'eA' }, '/body_base64'],
    [{ body_base64: 5 }, '/body_base64'],
    [{ content_type: '' }, '/content_type'],
    [{ content_type: 'a\nb' }, '/content_type'],
    [{ headers: [] }, '/headers'],
    [{ headers: { 'a b': 'x' } }, '/headers/a b'],
    [{ headers: { a: 5 } }, '/headers/a'],
    [{ priority: 10 }, '/priority'],
    [{ priority: '5' }, '/priority'],
    [{ delay: '-1s' }, '/delay'],
    [{ delay: '11000d' }, '/delay'],
    [{ deliver_at: 'tomorrow' }, '/deliver_at'],
    [{ deliver_at: '9999-01-01T00:00:00Z' }, '/deliver_at'],
    [{ delay: 1, deliver_at: '2031-01-01T00:00:00Z' }, '/deliver_at'],
  ])('%j is refused by name', async (json, pointer) => {
    expect(await refusal(await patch('box', 'msg_00000000001', json))).toEqual(invalidField(pointer))
  })

  test('too large a body is 413, no JSON 400, another type 415, no body at all 422', async () => {
    const id = await send('box', 'x')
    expect(await refusal(await patch('box', id, { body: 'x'.repeat(maxBodyBytes + 1) }))).toMatchObject({ status: 413 })
    expect((await patch('box', id, { body: 'x'.repeat(maxBodyBytes) })).status).toBe(200)
    const raw = (init: RequestInit) => app.request(at('box', id), { method: 'PATCH', ...init })
    expect(await refusal(await raw({ body: '{' }))).toMatchObject({ status: 415 })
    const json = { 'content-type': 'application/json' }
    expect(await refusal(await raw({ body: '{', headers: json }))).toMatchObject({
      status: 400,
      code: 'malformed_json',
    })
    expect(await refusal(await raw({}))).toEqual(invalidField(''))
  })
})
