/** Settling over HTTP: every outcome by its status, and many at once. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BrokerError } from '../src/model/index.ts'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp()
})
afterAll(() => app.stop())

let count = 0
/** Receipts of messages that are leased now, one for each body. */
async function leased(...bodies: string[]): Promise<{ queue: string; receipts: string[] }> {
  const queue = `leases${count++}`
  await app.request(`/v1/queues/${queue}`, { method: 'PUT' })
  await app.send(queue, ...bodies)
  const deliveries = await app.receive(queue, `?max=${bodies.length}`)
  return { queue, receipts: deliveries.map(({ receipt }) => receipt) }
}
const on = (receipt: string | undefined, method: string, action = '', json?: unknown) =>
  app.request(`/v1/leases/${receipt}${action}`, { method, ...(json === undefined ? {} : { json }) })
const counts = async (queue: string) =>
  ((await (await app.request(`/v1/queues/${queue}`)).json()) as { counts: Record<string, number> }).counts

describe('/v1/leases/{receipt}', () => {
  test('an ack is 204, and again 204', async () => {
    const { queue, receipts } = await leased('x')
    expect((await on(receipts[0], 'DELETE')).status).toBe(204)
    expect((await on(receipts[0], 'DELETE')).status).toBe(204)
    expect(await counts(queue)).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
  })

  test('a lease that somebody else has taken over is 409 for every action, and nothing changes', async () => {
    const { queue, receipts } = await leased('x')
    expect((await on(receipts[0], 'POST', '/nack?delay=0')).status).toBe(204)
    const [mine] = await app.receive(queue, '?wait=10s')
    expect(mine).toMatchObject({ attempt: 2 })
    for (const answer of [
      await on(receipts[0], 'DELETE'),
      await on(receipts[0], 'PATCH', '', { lease: '60s' }),
      await on(receipts[0], 'POST', '/nack'),
      await on(receipts[0], 'POST', '/reject'),
    ]) {
      expect(await refusal(answer)).toMatchObject({ status: 409, code: 'lease_lost' })
    }
    expect((await on(mine?.receipt, 'DELETE')).status).toBe(204)
    // Nothing is left of the message to tell this from an ack that is repeated; the other actions need no telling.
    expect((await on(receipts[0], 'DELETE')).status).toBe(204)
    for (const answer of [await on(receipts[0], 'POST', '/nack'), await on(receipts[0], 'PATCH', '', { lease: '60s' })])
      expect(await refusal(answer)).toMatchObject({ status: 409, code: 'lease_lost' })
  })

  test.each(['garbage', 'A'.repeat(48), '%00', 'a%2Fb', '..%2f..'])('the receipt %s is 422', async (receipt) => {
    for (const [method, action, json] of [
      ['DELETE', ''],
      ['PATCH', '', { lease: 60 }],
      ['POST', '/nack'],
      ['POST', '/reject'],
    ] as const) {
      const answer = await on(receipt, method, action, json)
      expect(await refusal(answer)).toEqual({ status: 422, code: 'invalid_receipt', pointers: ['path/receipt'] })
    }
  })

  test('an extension counts from now', async () => {
    const { receipts } = await leased('x')
    const answer = await on(receipts[0], 'PATCH', '', { lease: '1h' })
    expect(answer.status).toBe(200)
    const { lease_expires_at: until } = (await answer.json()) as { lease_expires_at: string }
    expect(Date.parse(until) - Date.now()).toBeGreaterThan(3_500_000)
  })

  test.each<[unknown, string]>([
    [{}, '/lease'],
    [{ lease: '0s' }, '/lease'],
    [{ lease: '13h' }, '/lease'],
    [{ lease: 60, wat: 1 }, '/wat'],
  ])('an extension by %j is refused', async (json, pointer) => {
    expect(await refusal(await on('any', 'PATCH', '', json))).toEqual(invalidField(pointer))
  })

  test('a nack waits for its delay', async () => {
    const { queue, receipts } = await leased('x')
    expect((await on(receipts[0], 'POST', '/nack?delay=1h')).status).toBe(204)
    expect(await counts(queue)).toMatchObject({ ready: 0, delayed: 1, leased: 0 })
    expect(await refusal(await on('any', 'POST', '/nack?delay=x'))).toEqual(invalidField('query/delay'))
  })

  test('a nack takes its delay in the body as well', async () => {
    const { queue, receipts } = await leased('x', 'y')
    expect((await on(receipts[0], 'POST', '/nack', { delay: '1h' })).status).toBe(204)
    expect((await on(receipts[1], 'POST', '/nack', {})).status).toBe(204)
    expect(await counts(queue)).toMatchObject({ ready: 1, delayed: 1, leased: 0 })
    expect(await refusal(await on('any', 'POST', '/nack', { delay: 'x' }))).toEqual(invalidField('/delay'))
    expect(await refusal(await on('any', 'POST', '/nack', { wat: 1 }))).toEqual(invalidField('/wat'))
    expect(await refusal(await on('any', 'POST', '/nack?delay=1s', { delay: '2s' }))).toEqual(invalidField('/delay'))
  })

  test('a rejected message is a dead letter with its reason', async () => {
    const { queue, receipts } = await leased('x', 'y')
    expect((await on(receipts[0], 'POST', '/reject', { reason: 'no such order' })).status).toBe(204)
    expect((await on(receipts[1], 'POST', '/reject')).status).toBe(204)
    const answer = await app.request(`/v1/queues/${queue}/messages?state=dead`)
    const { data } = (await answer.json()) as { data: { body: string; last_error: string | null }[] }
    expect(data.find(({ body }) => body === 'x')).toMatchObject({ reason: 'rejected', last_error: 'no such order' })
    expect(await refusal(await on('any', 'POST', '/reject', { reason: 'x'.repeat(1001) }))).toEqual(
      invalidField('/reason'),
    )
    expect(await refusal(await on('any', 'POST', '/reject', { reason: 'a\u0000' }))).toEqual(invalidField('/reason'))
  })

  test('the reason goes with the dead letter in any script, raw as well, but for control characters', async () => {
    const { queue, receipts } = await leased('x', 'y')
    await app.request('/v1/queues/letters', { method: 'PUT' })
    await app.request(`/v1/queues/${queue}`, { method: 'PUT', json: { dead_letter_queue: 'letters' } })
    for (const receipt of receipts) {
      const reason = 'zu groß: 十 🙂 \u2028\u0001\t\n\u007f\u0080\u009f\u00a0|'
      expect((await on(receipt, 'POST', '/reject', { reason })).status).toBe(204)
    }
    const shown = 'zu groß: 十 🙂 \u2028??????\u00a0|'
    const [letter] = await app.receive('letters', '?wait=5s')
    expect(letter?.headers).toMatchObject({ 'postern-dead-error': shown })
    const server = await app.listen()
    const raw = await fetch(`${server.url}/v1/queues/letters/receive?raw=true&wait=5s`, { method: 'POST' })
    expect(raw.status).toBe(200)
    const bytes = Buffer.from(raw.headers.get('postern-header-postern-dead-error') ?? '', 'latin1')
    expect(bytes.toString('utf8')).toBe(shown)
  })

  test('a JSON body that is none is 400, another type 415', async () => {
    const send = (type: string, body: string) =>
      app.request('/v1/leases/any/reject', { method: 'POST', headers: { 'content-type': type }, body })
    expect((await send('application/json', '{')).status).toBe(400)
    expect((await send('text/plain', '{}')).status).toBe(415)
  })

  test('the log has no receipt in it', async () => {
    const { receipts } = await leased('x')
    await on(receipts[0], 'POST', '/nack')
    expect(app.lines.at(-1)).toMatchObject({ path: '/v1/leases/{receipt}/nack', route: '/v1/leases/{receipt}/nack' })
    expect(JSON.stringify(app.lines)).not.toContain(receipts[0])
  })
})

describe('POST /v1/queues/{queue}/settle', () => {
  type Settled = { results: { receipt: string; outcome: string }[]; messages: { body: string }[] }
  const settle = (queue: string, json: unknown, query = '') =>
    app.request(`/v1/queues/${queue}/settle${query}`, { method: 'POST', json })
  const settled = async (queue: string, json: unknown, query = ''): Promise<Settled> => {
    const answer = await settle(queue, json, query)
    expect(answer.status).toBe(200)
    return (await answer.json()) as Settled
  }

  test('answers each receipt in the order ack, nack, extend, reject', async () => {
    const { queue, receipts } = await leased('a', 'b', 'c', 'd')
    const [a, b, c, d] = receipts
    const { results, messages } = await settled(queue, {
      reject: [{ receipt: d, reason: 'no' }],
      extend: [{ receipt: c, lease: 60 }],
      nack: [{ receipt: b, delay: '1h' }],
      ack: [a, 'garbage'],
    })
    expect(results).toMatchObject([
      { receipt: a, outcome: 'acked' },
      { receipt: 'garbage', outcome: 'invalid_receipt' },
      { receipt: b, outcome: 'nacked' },
      { receipt: c, outcome: 'extended', lease_expires_at: expect.any(String) },
      { receipt: d, outcome: 'rejected' },
    ])
    expect(messages).toEqual([])
    expect(await counts(queue)).toEqual({ ready: 0, delayed: 1, leased: 1, dead: 1 })
  })

  test('a receipt that is given twice is answered twice', async () => {
    const { queue, receipts } = await leased('a')
    const { results } = await settled(queue, { ack: [receipts[0], receipts[0]] })
    expect(results).toHaveLength(2)
    expect(results[0]).toEqual({ receipt: receipts[0], outcome: 'acked' })
  })

  test('receipts of another queue are invalid here', async () => {
    const { receipts } = await leased('a')
    const { queue } = await leased('b')
    const { results } = await settled(queue, { ack: receipts })
    expect(results).toMatchObject([{ outcome: 'invalid_receipt' }])
  })

  test('fetches the next messages in the same round trip', async () => {
    const { queue, receipts } = await leased('a')
    await app.send(queue, 'b', 'c')
    const { results, messages } = await settled(queue, { ack: receipts }, '?receive=10&wait=10s&lease=1m')
    expect(results).toMatchObject([{ outcome: 'acked' }])
    expect(messages.map(({ body }) => body)).toEqual(['b', 'c'])
    expect(await settled(queue, {}, '?receive=1')).toEqual({ results: [], messages: [] })
  })

  test('fetches no more of one key than it is told', async () => {
    const { queue, receipts } = await leased('a')
    const messages = ['x1', 'x2', 'y1'].map((body) => ({ body, key: body.charAt(0) }))
    await app.request(`/v1/queues/${queue}/messages/batch`, { method: 'POST', json: { messages } })
    const fetched = await settled(queue, { ack: receipts }, '?receive=10&per_key=1')
    expect(fetched.messages.map(({ body }) => body)).toEqual(['x1', 'y1'])
  })

  test('a receive that fails does not hide what was settled', async () => {
    const half = await testApp({
      broken: (broker) => ({
        receive: (queue, options) =>
          options.max === 2
            ? Promise.reject(new BrokerError('unavailable', 'The database is gone.'))
            : broker.receive(queue, options),
      }),
    })
    await half.request('/v1/queues/q', { method: 'PUT' })
    await half.send('q', 'a')
    const [delivery] = await half.receive('q')
    const call = (json: unknown) => half.request('/v1/queues/q/settle?receive=2', { method: 'POST', json })
    expect(await (await call({ ack: [delivery?.receipt] })).json()).toMatchObject({
      results: [{ outcome: 'acked' }],
      messages: [],
    })
    expect((await call({})).status).toBe(503)
    await half.stop()
  })

  test('a thousand receipts are taken, one more is 422', async () => {
    const { queue } = await leased('a')
    const many = (length: number) => Array.from({ length }, () => 'x')
    expect((await settled(queue, { ack: many(1000) })).results).toHaveLength(1000)
    const over = { ack: many(999), nack: [{ receipt: 'x' }, { receipt: 'y' }] }
    expect(await refusal(await settle(queue, over))).toEqual(invalidField(''))
  })

  test.each<[unknown, string, string]>([
    [{ ack: 'x' }, '', '/ack'],
    [{ ack: [1] }, '', '/ack/0'],
    [{ nack: ['x'] }, '', '/nack/0'],
    [{ nack: [{ receipt: 'x', delay: -1 }] }, '', '/nack/0/delay'],
    [{ extend: [{ receipt: 'x' }] }, '', '/extend/0/lease'],
    [{ reject: [{ receipt: 'x', why: 1 }] }, '', '/reject/0/why'],
    [{ acks: [] }, '', '/acks'],
    [{}, '?receive=0', 'query/receive'],
    [{}, '?receive=1&wait=56', 'query/wait'],
    [{}, '?wait=1', 'query/wait'],
    [{}, '?lease=1s', 'query/lease'],
    [{}, '?per_key=1', 'query/per_key'],
    [{}, '?receive=1&per_key=0', 'query/per_key'],
  ])('%j %s is refused by name', async (json, query, pointer) => {
    const { queue } = await leased('a')
    expect(await refusal(await settle(queue, json, query))).toEqual(invalidField(pointer))
  })

  test.each<[unknown, string]>([
    ['x', 'The body: must be an object with ack, nack, extend or reject'],
    [{ nack: ['x'] }, '/nack/0: must be an object with receipt, and optionally delay'],
    [{ extend: [1] }, '/extend/0: must be an object with receipt and lease'],
    [{ reject: [null] }, '/reject/0: must be an object with receipt, and optionally reason'],
  ])('%j is told what shape is wanted', async (json, detail) => {
    expect(await (await settle('any', json)).json()).toMatchObject({ detail })
  })

  test('what is not JSON is 400, 413 or 415', async () => {
    const post = (body: string, type = 'application/json') =>
      app.request('/v1/queues/any/settle', { method: 'POST', body, headers: { 'content-type': type } })
    expect((await post('[')).status).toBe(400)
    expect((await post('{}', 'text/csv')).status).toBe(415)
    expect((await post(' '.repeat(10 * 1024 * 1024 + 1))).status).toBe(413)
  })
})
