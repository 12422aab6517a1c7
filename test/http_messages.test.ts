/** Sending one message and looking at messages: byte-exact in, byte-exact out, every option checked. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'

const maxBodyBytes = 10_000
let app: TestApp
beforeAll(async () => {
  app = await testApp({ maxBodyBytes })
  for (const name of ['box', 'exact', 'browse', 'options']) await app.request(`/v1/queues/${name}`, { method: 'PUT' })
})
afterAll(() => app.stop())

type Init = { query?: string; headers?: Record<string, string>; queue?: string }
const send = (body: string | Uint8Array | null, { query = '', headers = {}, queue = 'box' }: Init = {}) =>
  app.request(`/v1/queues/${queue}/messages${query}`, {
    method: 'POST',
    headers,
    body: typeof body === 'string' ? Buffer.from(body) : (body as Uint8Array<ArrayBuffer> | null),
  })
const read = async (answer: Response) => (await answer.json()) as Record<string, unknown>
const sentId = async (answer: Response) => String((await read(answer)).id)
const look = async (id: string, queue = 'box') => read(await app.request(`/v1/queues/${queue}/messages/${id}`))

describe('POST /v1/queues/{queue}/messages', () => {
  test('answers 201 with the id, when it can be received, and where it lies', async () => {
    const answer = await send('hello')
    expect(answer.status).toBe(201)
    const { id, available_at: availableAt } = await read(answer)
    expect(answer.headers.get('location')).toBe(`/v1/queues/box/messages/${id}`)
    expect(String(availableAt)).toMatch(/^\d{4}-.*Z$/)
    expect(await look(String(id))).toMatchObject({
      id,
      state: 'ready',
      body: 'hello',
      content_type: 'application/octet-stream',
      headers: {},
      key: null,
      priority: 5,
      attempts: 0,
    })
  })

  test('any bytes come out as they went in', async () => {
    const bytes = fc.uint8Array({ maxLength: 300 })
    await fc.assert(
      fc.asyncProperty(bytes, async (body) => {
        const id = await sentId(await send(body, { queue: 'exact' }))
        const raw = await app.request('/v1/queues/exact/receive?raw=true', { method: 'POST' })
        expect(raw.headers.get('postern-message-id')).toBe(id)
        expect(Buffer.from(await raw.arrayBuffer()).equals(Buffer.from(body))).toBe(true)
        await app.request(`/v1/leases/${raw.headers.get('postern-receipt')}`, { method: 'DELETE' })
      }),
      { numRuns: 30 },
    )
  })

  test('text is shown as text, other bytes as base64, nothing as nothing', async () => {
    expect(await look(await sentId(await send('\uFEFF{"a": 1.00}\u0000')))).toMatchObject({
      body: '\uFEFF{"a": 1.00}\u0000',
    })
    const binary = await look(await sentId(await send(Uint8Array.from([0xff, 0xfe]))))
    expect(binary).toMatchObject({ body_base64: '//4=' })
    expect(binary).not.toHaveProperty('body')
    expect(await look(await sentId(await send(null)))).toMatchObject({ body: '' })
  })

  test('a declared form that is JSON text becomes JSON; every other type is kept', async () => {
    const form = 'application/x-www-form-urlencoded'
    for (const [declared, body, kept] of [
      [form, '{"id":1}', 'application/json'],
      [`${form}; charset=utf-8`, ' 17 ', 'application/json'],
      [form, 'a=b', form],
      [form, '', form],
      ['text/plain', '{"id":1}', 'text/plain'],
      ['Weird/Type; x="y z"', 'x', 'Weird/Type; x="y z"'],
    ] as const) {
      const id = await sentId(await send(body, { headers: { 'content-type': declared } }))
      expect(await look(id)).toMatchObject({ content_type: kept, body })
    }
  })

  test('JSON nested 100,000 deep is just bytes', async () => {
    const deep = '['.repeat(4000) + ']'.repeat(4000)
    const id = await sentId(await send(deep, { headers: { 'content-type': 'application/x-www-form-urlencoded' } }))
    expect(await look(id)).toMatchObject({ body: deep, content_type: 'application/json' })
  })

  test('exactly the largest body passes, one byte more is 413', async () => {
    expect((await send(Buffer.alloc(maxBodyBytes, 'x'))).status).toBe(201)
    const over = await send(Buffer.alloc(maxBodyBytes + 1, 'x'))
    expect(await refusal(over)).toMatchObject({ status: 413, code: 'body_too_large' })
  })

  test('message headers and trace context are kept', async () => {
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    const headers = { 'Postern-Header-Tenant': 'a, b', 'Postern-Header-X-Y': '', traceparent, tracestate: 'k=v' }
    const message = await look(await sentId(await send('x', { headers })))
    expect(message.headers).toEqual({ tenant: 'a, b', 'x-y': '', traceparent, tracestate: 'k=v' })
    const without = await look(
      await sentId(await send('x', { headers: { traceparent: 'nonsense', tracestate: 'k=v' } })),
    )
    expect(without.headers).toEqual({})
  })

  test('header values are read as UTF-8, or else as Latin-1', async () => {
    const utf8 = Buffer.from('grüße').toString('latin1')
    const message = await look(
      await sentId(await send('x', { headers: { 'Postern-Header-A': utf8, 'Postern-Header-B': 'gr\xfc\xdfe' } })),
    )
    expect(message.headers).toEqual({ a: 'grüße', b: 'grüße' })
  })

  test('too many or too large headers are refused', async () => {
    const many = Object.fromEntries(Array.from({ length: 65 }, (_, at) => [`Postern-Header-${at}`, 'x']))
    expect(await refusal(await send('x', { headers: many }))).toEqual(invalidField('header/postern-header-*'))
    const large = { 'Postern-Header-A': 'x'.repeat(16 * 1024) }
    expect(await refusal(await send('x', { headers: large }))).toEqual(invalidField('header/postern-header-*'))
    delete many['Postern-Header-64']
    expect((await send('x', { headers: many })).status).toBe(201)
  })

  test('a content type is at most 255 characters', async () => {
    const type = (length: number) => ({ headers: { 'content-type': 'a/'.padEnd(length, 'b') } })
    expect(await refusal(await send('x', type(256)))).toEqual(invalidField('header/content-type'))
    expect((await send('x', type(255))).status).toBe(201)
  })

  test('delay and deliver_at hold a message back', async () => {
    const delayed = await read(await send('x', { query: '?delay=1h', queue: 'options' }))
    const message = await look(String(delayed.id), 'options')
    expect(message.state).toBe('delayed')
    // Postgres counts in microseconds; one of the two may have been rounded up.
    const apart = Date.parse(String(delayed.available_at)) - Date.parse(String(message.available_at))
    expect(Math.abs(apart)).toBeLessThanOrEqual(1)
    const at = await read(await send('x', { query: '?deliver_at=2031-01-01T01:00:00%2B01:00', queue: 'options' }))
    expect(at.available_at).toBe('2031-01-01T00:00:00.000Z')
    const unencoded = await read(
      await send('x', { query: '?deliver_at=2031-01-01T01:00:00.0001+01:00', queue: 'options' }),
    )
    expect(unencoded.available_at).toBe('2031-01-01T00:00:00.001Z')
  })

  test('ttl, priority and key are kept', async () => {
    const message = await look(await sentId(await send('x', { query: '?ttl=1d&priority=9&key=caf%C3%A9+1' })))
    expect(message).toMatchObject({ priority: 9, key: 'café 1' })
    const lifetime = Date.parse(String(message.expires_at)) - Date.parse(String(message.enqueued_at))
    expect(lifetime).toBe(86_400_000)
  })

  test.each([
    ['delay=-1', 'query/delay'],
    ['delay=abc', 'query/delay'],
    ['delay=', 'query/delay'],
    ['delay=11000d', 'query/delay'],
    ['ttl=0', 'query/ttl'],
    ['ttl=999ms', 'query/ttl'],
    ['priority=10', 'query/priority'],
    ['priority=-1', 'query/priority'],
    ['priority=1.0', 'query/priority'],
    ['priority=%EF%BC%91', 'query/priority'],
    ['key=', 'query/key'],
    ['key=a%00b', 'query/key'],
    ['key=a%0Ab', 'query/key'],
    [`key=${'k'.repeat(256)}`, 'query/key'],
    [`dedup_id=${'k'.repeat(256)}`, 'query/dedup_id'],
    ['deliver_at=tomorrow', 'query/deliver_at'],
    ['deliver_at=2030-02-30T00:00:00Z', 'query/deliver_at'],
    ['deliver_at=2030-01-01', 'query/deliver_at'],
    ['deliver_at=2030-01-01T24:00:00Z', 'query/deliver_at'],
    ['deliver_at=9999-01-01T00:00:00Z', 'query/deliver_at'],
    ['delay=1&deliver_at=2030-01-01T00:00:00Z', 'query/deliver_at'],
    ['delay=1&delay=1', 'query/delay'],
    ['Delay=1', 'query/Delay'],
  ])('?%s is refused by name', async (query, pointer) => {
    expect(await refusal(await send('x', { query: `?${query}` }))).toEqual(invalidField(pointer))
  })

  test('a query that is not UTF-8 is 400', async () => {
    expect(await refusal(await send('x', { query: '?key=%ff' }))).toMatchObject({
      status: 400,
      code: 'malformed_request',
    })
  })

  test('a second send with the same dedup_id answers with the first, however it is given', async () => {
    const first = await sentId(await send('x', { query: '?dedup_id=once' }))
    for (const init of [{ query: '?dedup_id=once' }, { headers: { 'idempotency-key': 'once' } }]) {
      const again = await send('y', init)
      expect(again.status).toBe(200)
      expect(await read(again)).toEqual({ id: first, deduplicated: true })
    }
  })

  test('dedup_id and Idempotency-Key must not differ', async () => {
    const headers = { 'idempotency-key': 'a' }
    expect((await send('x', { query: '?dedup_id=a', headers })).status).toBe(201)
    expect(await refusal(await send('x', { query: '?dedup_id=b', headers }))).toEqual(
      invalidField('header/idempotency-key'),
    )
    const long = { 'idempotency-key': 'a'.repeat(256) }
    expect(await refusal(await send('x', { headers: long }))).toEqual(invalidField('header/idempotency-key'))
  })

  test('a full queue answers 429 and when to try again', async () => {
    await app.request('/v1/queues/small', { method: 'PUT', json: { max_messages: 1 } })
    expect((await send('x', { queue: 'small' })).status).toBe(201)
    const full = await send('x', { queue: 'small' })
    expect(Number(full.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(await refusal(full)).toMatchObject({ status: 429, code: 'queue_full' })
  })
})

describe('looking at messages', () => {
  test('each state shows what belongs to it, and looking changes nothing', async () => {
    const ids = await app.send('browse', 'dead', 'leased', 'ready')
    const delayed = await sentId(await send('later', { query: '?delay=1h', queue: 'browse' }))
    const [dead] = await app.receive('browse')
    await app.request(`/v1/leases/${dead?.receipt}/reject`, { method: 'POST', json: { reason: 'broken' } })
    await app.receive('browse')
    const page = async (state: string) =>
      ((await (await app.request(`/v1/queues/browse/messages${state}`)).json()) as { data: Record<string, unknown>[] })
        .data
    for (let twice = 0; twice < 2; twice++) {
      expect(await page('')).toMatchObject([{ id: ids[2], state: 'ready', attempts: 0 }])
      expect(await page('?state=leased')).toMatchObject([
        { id: ids[1], state: 'leased', attempts: 1, lease_expires_at: expect.any(String) },
      ])
      expect(await page('?state=delayed')).toMatchObject([
        { id: delayed, state: 'delayed', available_at: expect.any(String) },
      ])
      expect(await page('?state=dead')).toMatchObject([
        {
          id: ids[0],
          reason: 'rejected',
          last_error: 'broken',
          attempts: 1,
          origin: 'browse',
          died_at: expect.any(String),
        },
      ])
    }
  })

  test('pages follow each other', async () => {
    await app.request('/v1/queues/pages', { method: 'PUT' })
    const ids = await app.send('pages', 'a', 'b', 'c')
    type Page = { data: { id: string }[]; next_cursor: string | null }
    const first = (await (await app.request('/v1/queues/pages/messages?limit=2')).json()) as Page
    expect(first.data.map(({ id }) => id)).toEqual(ids.slice(0, 2))
    const next = `/v1/queues/pages/messages?limit=2&cursor=${encodeURIComponent(first.next_cursor ?? '')}`
    const second = (await (await app.request(next)).json()) as Page
    expect(second).toMatchObject({ data: [{ id: ids[2] }], next_cursor: null })
  })

  test.each([
    ['state=gone', 'query/state'],
    ['limit=0', 'query/limit'],
    ['state=ready&state=dead', 'query/state'],
  ])('?%s is refused by name', async (query, pointer) => {
    expect(await refusal(await app.request(`/v1/queues/browse/messages?${query}`))).toEqual(invalidField(pointer))
  })

  test('a message is deleted once', async () => {
    const [id] = await app.send('browse', 'x')
    const one = `/v1/queues/browse/messages/${id}`
    expect((await app.request(one, { method: 'DELETE' })).status).toBe(204)
    expect(await refusal(await app.request(one))).toMatchObject({ status: 404, code: 'message_not_found' })
    expect((await app.request(one, { method: 'DELETE' })).status).toBe(404)
    expect((await app.request('/v1/queues/browse/messages/not-an-id')).status).toBe(404)
  })
})
