/** A receive that is retried under the same Idempotency-Key: the same leases while they live, and never others beside them. */
import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { invalidField, type Received, refusal, rootKey, type TestApp, testApp } from './support/app.ts'
import { ack, type Bench, bodies, brokersOn, send, settle } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { waitFor } from './support/wait.ts'

describe('through the broker', () => {
  let bench: Bench
  let a: Broker
  let b: Broker
  beforeAll(async () => {
    bench = await brokersOn(2)
    ;[a, b] = bench.brokers as [Broker, Broker]
  })
  afterAll(() => bench.stop())

  let count = 0
  async function newQueue(settings = {}): Promise<string> {
    const name = `retry${count++}`
    await a.admin.putQueue(name, settings)
    return name
  }
  const receive = async (broker: Broker, queue: string, retryKey: string | null, more: object = {}) => {
    const options = { max: 2, waitMs: 0, leaseMs: 60_000, signal: new AbortController().signal, retryKey }
    return (await broker.receive(queue, { ...options, ...more })).messages
  }

  test('gets the same messages under the same receipts, on the other gateway too; another key gets others', async () => {
    const queue = await newQueue()
    await send(a, queue, 'one', 'two', 'three')
    const first = await receive(a, queue, 'k')
    expect(bodies(first)).toEqual(['one', 'two'])
    expect(await receive(a, queue, 'k')).toEqual(first)
    expect(await receive(b, queue, 'k')).toEqual(first)
    expect(bodies(await receive(b, queue, 'other'))).toEqual(['three'])
    expect(await ack(b, ...first)).toEqual(['acked', 'acked'])
  })

  test('leaves out what was settled meanwhile, and leases nothing in its place', async () => {
    const queue = await newQueue()
    await send(a, queue, 'one', 'two', 'three')
    const [one, two] = await receive(a, queue, 'k')
    if (!one || !two) throw new Error('nothing came')
    await ack(a, one)
    expect(await receive(b, queue, 'k')).toEqual([two])
    await settle(b, { action: 'nack', receipt: two.receipt, delayMs: 0 })
    expect(await receive(a, queue, 'k', { waitMs: 5000 })).toEqual([])
    expect(bodies(await receive(a, queue, null, { max: 10 })).sort()).toEqual(['three', 'two'])
  })

  test('after the leases is a new receive, and the receipts of the old do not settle it', async () => {
    const queue = await newQueue()
    await send(a, queue, 'one')
    const [old] = await receive(a, queue, 'k', { leaseMs: 1000 })
    const [again] = await eventually(async () => {
      const got = await receive(b, queue, 'k')
      return got[0] && got[0].receipt !== old?.receipt ? got : null
    })
    expect(again).toMatchObject({ id: old?.id, attempt: 2 })
    expect(old && (await ack(a, old))).toEqual(['lease_lost'])
    expect(again && (await ack(a, again))).toEqual(['acked'])
  })

  test('an extended lease is the same one for as long as it was extended', async () => {
    const queue = await newQueue()
    await send(a, queue, 'one', 'two')
    const [held] = await receive(a, queue, 'k', { leaseMs: 1000, max: 1 })
    if (!held) throw new Error('nothing came')
    await settle(a, { action: 'extend', receipt: held.receipt, leaseMs: 600_000 })
    await eventually(async () => (await expiredRequests(queue)) === 1)
    const [same] = await receive(b, queue, 'k', { max: 1 })
    expect(same).toMatchObject({ id: held.id, receipt: held.receipt, attempt: 1 })
  })
  const expiredRequests = async (queue: string): Promise<number> => {
    const [row] = await bench.db.sql<{ n: number }[]>`
      select count(*)::int as n from postern.receive_requests r join postern.queues q on q.id = r.queue_id
      where q.name = ${queue} and r.expires_at < now()`
    return row?.n ?? 0
  }

  test('an empty answer is not remembered', async () => {
    const queue = await newQueue()
    expect(await receive(a, queue, 'k')).toEqual([])
    await send(a, queue, 'late')
    expect(bodies(await receive(b, queue, 'k'))).toEqual(['late'])
  })

  test('of many at once with one key on two gateways one leases, and nobody gets anything else', async () => {
    for (let round = 0; round < 20; round++) {
      const queue = await newQueue()
      await send(a, queue, ...Array.from({ length: 20 }, (_, n) => `${n}`))
      const answers = await Promise.all(
        Array.from({ length: 8 }, (_, n) => receive(n % 2 ? a : b, queue, 'k', { waitMs: n > 3 ? 200 : 0 })),
      )
      const receipts = new Set(answers.flat().map(({ receipt }) => receipt))
      expect(receipts.size).toBe(2)
      expect((await a.admin.getQueue(queue)).counts).toMatchObject({ ready: 18, leased: 2 })
      // What was locked in vain is not lost to others.
      expect(await receive(b, queue, null, { max: 100 })).toHaveLength(18)
    }
  })

  test('the twin: without the key each of them leases', async () => {
    const queue = await newQueue()
    await send(a, queue, ...Array.from({ length: 20 }, (_, n) => `${n}`))
    const answers = await Promise.all(Array.from({ length: 8 }, (_, n) => receive(n % 2 ? a : b, queue, null)))
    expect(new Set(answers.flat().map(({ receipt }) => receipt)).size).toBe(16)
  })

  test('a long poll with a key gets what is sent while it waits, as its retry does; others in the line are served too', async () => {
    const queue = await newQueue()
    const waiting = receive(a, queue, 'k', { waitMs: 20_000, max: 1 })
    const plain = receive(a, queue, null, { waitMs: 20_000, max: 1 })
    const third = receive(b, queue, 'other', { waitMs: 20_000, max: 1 })
    await send(b, queue, 'one', 'two', 'three')
    const got = await Promise.all([waiting, plain, third])
    expect(got.flat().map(({ body }) => body.toString())).toHaveLength(3)
    expect(new Set(bodies(got.flat())).size).toBe(3)
    expect(await receive(b, queue, 'k')).toEqual(got[0])
  })

  test('messages whose attempts are spent are buried, and the next ones come', async () => {
    const queue = await newQueue({ maxAttempts: 2 })
    await send(a, queue, 'spent')
    const [once] = await receive(a, queue, null)
    await settle(a, { action: 'nack', receipt: once?.receipt ?? '', delayMs: 0 })
    await a.admin.putQueue(queue, { maxAttempts: 1 })
    await send(a, queue, 'fresh')
    expect(bodies(await receive(a, queue, 'k', { max: 1, waitMs: 10_000 }))).toEqual(['fresh'])
  })

  test('what is known of requests goes when their leases have ended, and stays while they are extended', async () => {
    const queue = await newQueue()
    await send(a, queue, 'one', 'two')
    const [held] = await receive(a, queue, 'held', { leaseMs: 1000, max: 1 })
    await settle(a, { action: 'extend', receipt: held?.receipt ?? '', leaseMs: 600_000 })
    await ack(a, ...(await receive(a, queue, 'done', { leaseMs: 1000, max: 1 })))
    await eventually(async () => (await expiredRequests(queue)) === 2)
    await eventually(async () => (await expiredRequests(queue)) === 1, 20_000)
    expect(await receive(b, queue, 'held', { max: 1 })).toMatchObject([{ receipt: held?.receipt }])
  })
})

describe('over HTTP', () => {
  let app: TestApp
  beforeAll(async () => {
    app = await testApp({ rootKey, open: false })
    await call('PUT', '/v1/queues/q')
  })
  afterAll(() => app.stop())

  const call = (method: string, path: string, more: { key?: string; bearer?: string; json?: unknown } = {}) => {
    const { key, bearer = rootKey, json } = more
    const headers = {
      authorization: `Bearer ${bearer}`,
      ...(key === undefined ? {} : { 'idempotency-key': key }),
      ...(json === undefined ? {} : { 'content-type': 'application/json' }),
    }
    return app.request(path, { method, headers, ...(json === undefined ? {} : { body: JSON.stringify(json) }) })
  }
  const messagesOf = async (answer: Response) => ((await answer.json()) as { messages: Received[] }).messages
  const sendOne = (body: string) => {
    const headers = { authorization: `Bearer ${rootKey}`, 'content-type': 'text/plain' }
    return app.request('/v1/queues/q/messages', { method: 'POST', headers, body })
  }
  const receive = async (key: string, bearer = rootKey) =>
    messagesOf(await call('POST', '/v1/queues/q/receive', { key, bearer }))

  test('the same key of another API key is another key', async () => {
    await sendOne('a')
    await sendOne('b')
    const scopes = [{ actions: ['receive'], queues: ['q'] }]
    const made = await call('POST', '/v1/keys', { json: { name: 'k', scopes } })
    const { key } = (await made.json()) as { key: string }
    const [mine] = await receive('same')
    const [theirs] = await receive('same', key)
    expect(theirs?.id).not.toBe(mine?.id)
    expect(await receive('same')).toEqual([mine])
    expect(await receive('same', key)).toEqual([theirs])
  })

  test('a raw receive is retried like any other', async () => {
    await sendOne('raw')
    const raw = () => call('POST', '/v1/queues/q/receive?raw=true', { key: 'raw' })
    const first = await raw()
    const second = await raw()
    expect(second.headers.get('postern-receipt')).toBe(first.headers.get('postern-receipt'))
    expect(await second.text()).toBe(await first.text())
  })

  test('settle and fetch may be repeated as it is', async () => {
    await sendOne('first')
    await sendOne('second')
    await sendOne('third')
    const [one] = await receive('f1')
    const [two] = await receive('f2')
    const json = { ack: [one?.receipt], nack: [{ receipt: two?.receipt, delay: '1h' }] }
    const again = () => call('POST', '/v1/queues/q/settle?receive=1', { key: 's', json })
    const outcomes = async (answer: Response) =>
      ((await answer.json()) as { results: { outcome: string }[] }).results.map(({ outcome }) => outcome)
    const [first, second] = [await again(), await again()]
    expect(await messagesOf(first.clone())).toHaveLength(1)
    expect(await messagesOf(second.clone())).toEqual(await messagesOf(first.clone()))
    expect(await outcomes(first)).toEqual(['acked', 'nacked'])
    expect(await outcomes(second)).toEqual(['acked', 'lease_lost'])
  })

  test.each(['', 'x'.repeat(256)])('the key %j is refused by name, before anything is settled', async (key) => {
    await sendOne('kept')
    const [held] = await receive(`held${key.length}`)
    const answer = await call('POST', '/v1/queues/q/settle?receive=1', { key, json: { ack: [held?.receipt] } })
    expect(await refusal(answer)).toEqual(invalidField('header/idempotency-key'))
    expect(await refusal(await call('POST', '/v1/queues/q/receive', { key }))).toMatchObject({ status: 422 })
    expect((await call('PATCH', `/v1/leases/${held?.receipt}`, { json: { lease: '1m' } })).status).toBe(200)
  })
})

test('the messages of a client that has gone in the middle wait for its retry', async () => {
  let leased: (() => void) | undefined
  const isLeased = new Promise<void>((resolve) => {
    leased = resolve
  })
  const slow = await testApp({
    broken: (broker) => ({
      receive: async (queue, options) => {
        const received = await broker.receive(queue, options)
        if (options.max === 7) {
          leased?.()
          await once(options.signal, 'abort')
        }
        return received
      },
    }),
  })
  await slow.request('/v1/queues/q', { method: 'PUT' })
  await slow.send('q', 'x')
  const { port } = await slow.listen()
  const headers = { 'idempotency-key': 'k' }
  const gone = httpRequest({ port, host: '127.0.0.1', method: 'POST', path: '/v1/queues/q/receive?max=7', headers })
  gone.on('error', () => {})
  gone.end()
  await isLeased
  gone.destroy()
  await waitFor(() => expect(slow.lines).toContainEqual(expect.objectContaining({ aborted: true })))
  expect(await slow.receive('q')).toEqual([])
  const again = await slow.request('/v1/queues/q/receive', { method: 'POST', headers })
  expect(await again.json()).toMatchObject({ messages: [{ body: 'x', attempt: 1 }] })
  await slow.stop()
})
