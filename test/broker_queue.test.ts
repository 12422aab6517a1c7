/** The queue's promises, through the broker's door. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import type { QueueSettings } from '../src/model/index.ts'
import { ack, type Bench, bodies, brokersOn, message, receive, send, settle } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

let bench: Bench
let a: Broker
let b: Broker
let made = 0

beforeAll(async () => {
  bench = await brokersOn(2)
  ;[a, b] = bench.brokers as [Broker, Broker]
})
afterAll(() => bench.stop())

async function queue(settings: Partial<QueueSettings> = {}): Promise<string> {
  const name = `q${++made}`
  await a.admin.putQueue(name, settings)
  return name
}
const counts = async (name: string) => (await a.admin.getQueue(name)).counts

describe('order', () => {
  test('messages of one priority come in the order of sending, higher priorities first', async () => {
    const q = await queue()
    await send(a, q, 'one', message('urgent', { priority: 9 }), 'two', message('idle', { priority: 0 }))
    expect(bodies(await receive(b, q, 10))).toEqual(['urgent', 'one', 'two', 'idle'])
  })

  test('a retried message goes before new ones of its priority, not before higher ones', async () => {
    const q = await queue()
    await send(a, q, 'first')
    const [first] = await receive(a, q)
    await send(a, q, 'second', message('urgent', { priority: 6 }))
    expect(await settle(a, { action: 'nack', receipt: first?.receipt ?? '', delayMs: 0 })).toEqual(['nacked'])
    expect(bodies(await receive(b, q, 10))).toEqual(['urgent', 'first', 'second'])
  })

  test('a lifo queue gives the newest first', async () => {
    const q = await queue({ order: 'lifo' })
    await send(a, q, '1', '2')
    await send(b, q, '3')
    expect(bodies(await receive(a, q))).toEqual(['3'])
    await send(a, q, '4')
    expect(bodies(await receive(a, q, 10))).toEqual(['4', '2', '1'])
  })

  test('a message handed to a parked receiver does not pass one that another gateway stored before it', async () => {
    const q = await queue()
    for (let round = 0; round < 20; round++) {
      const waiting = receive(b, q, 1, { waitMs: 5000 })
      await send(a, q, `a${round}`)
      await send(b, q, `b${round}`)
      const [got] = await waiting
      const rest = await eventually(async () => {
        const more = await receive(b, q, 10)
        return more.length > 0 && more
      })
      expect([...bodies(got ? [got] : []), ...bodies(rest)]).toEqual([`a${round}`, `b${round}`])
      await ack(b, ...(got ? [got] : []), ...rest)
    }
  })
})

describe('leases', () => {
  test('an ack ends a message, and acking again is no error', async () => {
    const q = await queue()
    await send(a, q, 'x')
    const got = await receive(a, q)
    expect(await ack(b, ...got)).toEqual(['acked'])
    expect(await ack(a, ...got)).toEqual(['acked'])
    expect(await counts(q)).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
  })

  test('a late ack cannot settle a newer lease', async () => {
    const q = await queue()
    await send(a, q, 'x')
    const old = await receive(a, q, 1, { leaseMs: 1000 })
    const [fresh] = await receive(b, q, 1, { waitMs: 10_000 })
    expect(fresh?.attempt).toBe(2)
    expect(await ack(a, ...old)).toEqual(['lease_lost'])
    expect(await settle(a, { action: 'extend', receipt: old[0]?.receipt ?? '', leaseMs: 5000 })).toEqual(['lease_lost'])
    expect(await settle(a, { action: 'reject', receipt: old[0]?.receipt ?? '', reason: null })).toEqual(['lease_lost'])
    expect(await ack(b, ...(fresh ? [fresh] : []))).toEqual(['acked'])
  })

  test('an extended lease outlives its first end', async () => {
    const q = await queue()
    await send(a, q, 'x')
    const got = await receive(a, q, 1, { leaseMs: 1000 })
    expect(await settle(a, { action: 'extend', receipt: got[0]?.receipt ?? '', leaseMs: 60_000 })).toEqual(['extended'])
    expect(await receive(b, q, 1, { waitMs: 2500 })).toEqual([])
    expect(await ack(a, ...got)).toEqual(['acked'])
  })

  test('garbled, truncated and foreign receipts are told apart from lost ones', async () => {
    const [q, other] = [await queue(), await queue()]
    await send(a, q, 'x')
    const [got] = await receive(a, q)
    const receipt = got?.receipt ?? ''
    const garbled = `${receipt.slice(0, 20)}${receipt[20] === 'A' ? 'B' : 'A'}${receipt.slice(21)}`
    for (const wrong of [garbled, receipt.slice(0, -1), `${receipt}A`, '', 'x'.repeat(48)]) {
      expect(await settle(a, { action: 'ack', receipt: wrong })).toEqual(['invalid_receipt'])
    }
    const foreign = await a.settle([{ action: 'ack', receipt }], { queue: other, may: () => true })
    expect(foreign.map((each) => each.outcome)).toEqual(['invalid_receipt'])
    await expect(a.settle([{ action: 'ack', receipt }], { queue: null, may: () => false })).rejects.toMatchObject({
      code: 'forbidden',
    })
    expect(await ack(a, ...(got ? [got] : []))).toEqual(['acked'])
  })

  test('no more than max_leased are out at a time, over all gateways, and a settle lets the next go', async () => {
    const q = await queue({ maxLeased: 3 })
    await send(a, q, ...Array.from({ length: 10 }, (_, n) => `${n}`))
    const taken = (await Promise.all([a, b, a, b].map((broker) => receive(broker, q, 2)))).flat()
    expect(taken).toHaveLength(3)
    const waiting = receive(b, q, 5, { waitMs: 5000 })
    expect(await ack(a, ...taken.slice(0, 1))).toEqual(['acked'])
    expect(await waiting).toHaveLength(1)
  })
})

describe('attempts and dead letters', () => {
  test('a message is handed out exactly max_attempts times, then kept with its reason', async () => {
    const q = await queue({ maxAttempts: 3 })
    await send(a, q, 'x')
    for (let attempt = 1; attempt <= 3; attempt++) {
      const [got] = await receive(attempt % 2 ? a : b, q, 1, { waitMs: 5000, leaseMs: 1000 })
      expect(got?.attempt).toBe(attempt)
      if (attempt < 3) await settle(b, { action: 'nack', receipt: got?.receipt ?? '', delayMs: 0 })
    }
    await eventually(async () => (await counts(q)).dead === 1)
    const { data } = await a.admin.browseMessages(q, 'dead', { limit: 10, cursor: null })
    expect(data[0]).toMatchObject({
      attempts: 3,
      dead: { reason: 'max_attempts', lastError: 'The lease expired.', origin: q },
    })
  })

  test('a rejected message goes to the dead-letter queue with where it came from, and starts anew there', async () => {
    const target = await queue()
    const q = await queue({ deadLetterQueue: target })
    const [id] = await send(a, q, message('x', { headers: { a: 'b' } }))
    const [got] = await receive(a, q)
    await settle(a, { action: 'reject', receipt: got?.receipt ?? '', reason: 'no such customer' })
    const [letter] = await receive(b, target, 1, { waitMs: 2000 })
    expect(letter).toMatchObject({
      id,
      attempt: 1,
      headers: {
        a: 'b',
        'postern-dead-reason': 'rejected',
        'postern-dead-queue': q,
        'postern-dead-error': 'no such customer',
      },
    })
  })

  test('an expired message is not handed out, and is a dead letter only where the queue says so', async () => {
    const [dropped, kept] = [await queue({ ttlMs: 1000 }), await queue({ ttlMs: 1000, deadLetterExpired: true })]
    for (const q of [dropped, kept]) await send(a, q, 'x')
    await eventually(async () => (await counts(kept)).dead === 1)
    expect(await receive(a, kept)).toEqual([])
    expect(await receive(a, dropped)).toEqual([])
    expect(await counts(dropped)).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
  })

  test('backoff grows with the attempts', async () => {
    const q = await queue({ backoff: { baseMs: 60_000, maxMs: 100_000, factor: 2, jitter: 0 } })
    await send(a, q, 'x')
    const [got] = await receive(a, q)
    await settle(a, { action: 'nack', receipt: got?.receipt ?? '', delayMs: null })
    const { data } = await a.admin.browseMessages(q, 'delayed', { limit: 1, cursor: null })
    const inMs = (data[0]?.availableAt?.getTime() ?? 0) - Date.now()
    expect(inMs).toBeGreaterThan(50_000)
    expect(inMs).toBeLessThan(70_000)
  })
})

describe('delay and dedup', () => {
  test('a delayed message is never early, by the clock of the database', async () => {
    const q = await queue()
    await send(a, q, message('x', { delayMs: 400 }))
    const [sentAt] = await bench.db.sql`select clock_timestamp() as at`
    expect(await receive(b, q)).toEqual([])
    expect(await receive(b, q, 1, { waitMs: 5000 })).toHaveLength(1)
    const [gotAt] = await bench.db.sql`select clock_timestamp() as at`
    expect(gotAt?.at - sentAt?.at).toBeGreaterThanOrEqual(380)
  })

  test('of many sends with one dedup id, on two gateways at once, one is stored', async () => {
    const q = await queue()
    const sends = Array.from({ length: 40 }, (_, n) =>
      (n % 2 ? a : b).send(q, [message(`${n}`, { dedupId: 'same' }), message(`other ${n}`, { dedupId: `k${n % 5}` })]),
    )
    const sent = (await Promise.all(sends)).map(([first]) => first as { id: string; deduplicated: boolean })
    expect(new Set(sent.map((each) => each.id)).size).toBe(1)
    expect(sent.filter((each) => !each.deduplicated)).toHaveLength(1)
    expect((await counts(q)).ready).toBe(6)
  })

  test('after the window the same dedup id is a new message', async () => {
    const q = await queue({ dedupWindowMs: 0 })
    await send(a, q, message('1', { dedupId: 'x' }))
    await send(a, q, message('2', { dedupId: 'x' }))
    expect((await counts(q)).ready).toBe(2)
  })
})

describe('bounds', () => {
  test('max_messages holds exactly over two gateways', async () => {
    const q = await queue({ maxMessages: 25 })
    const sends = Array.from({ length: 60 }, (_, n) => (n % 2 ? a : b).send(q, [message(`${n}`)]))
    const sent = (await Promise.all(sends)).flat()
    expect(sent.filter((each) => !(each instanceof Error))).toHaveLength(25)
    expect(sent.find((each) => each instanceof Error)).toMatchObject({ code: 'queue_full' })
    expect((await counts(q)).ready).toBe(25)
  })

  test('an atomic batch that does not fit leaves nothing, one without atomic what fits', async () => {
    const q = await queue({ maxBytes: 10 })
    const batch = [message('12345'), message('123456'), message('12345')]
    await expect(a.send(q, batch, { atomic: true })).rejects.toMatchObject({ code: 'queue_full' })
    expect((await counts(q)).ready).toBe(0)
    const sent = await a.send(q, batch)
    expect(sent.map((each) => each instanceof Error)).toEqual([false, true, false])
  })

  test('drop_oldest makes room', async () => {
    const q = await queue({ maxMessages: 3, overflow: 'drop_oldest' })
    for (let n = 0; n < 5; n++) await send(a, q, `${n}`)
    expect(bodies(await receive(b, q, 10))).toEqual(['2', '3', '4'])
  })

  test('an answer carries at most 16 MiB, and the rest stays ready and uncounted', async () => {
    const q = await queue()
    const big = Buffer.alloc(1024 * 1024, 'x')
    for (let n = 0; n < 2; n++)
      await a.send(
        q,
        Array.from({ length: 10 }, () => ({ ...message(''), body: big })),
      )
    const first = await receive(b, q, 20)
    expect(first).toHaveLength(16)
    const rest = await receive(a, q, 20, { waitMs: 3000 })
    expect(rest.map((each) => each.attempt)).toEqual([1, 1, 1, 1])
  })
})

describe('administration', () => {
  test('deleting a queue answers who waits for it, on both gateways', async () => {
    const q = await queue()
    const waiting = [a, b].map((broker) => receive(broker, q, 1, { waitMs: 10_000 }).catch((error) => error.code))
    await a.admin.deleteQueue(q, false)
    expect(await Promise.all(waiting)).toEqual(['queue_not_found', 'queue_not_found'])
    await expect(send(b, q, 'x')).rejects.toMatchObject({ code: 'queue_not_found' })
  })

  test('a queue made anew under the same name is empty, and both gateways find it', async () => {
    const q = await queue()
    await send(b, q, 'old')
    await a.admin.deleteQueue(q, true)
    await a.admin.putQueue(q, {})
    await send(b, q, 'new')
    expect(bodies(await receive(b, q, 10))).toEqual(['new'])
  })

  test('resume on one gateway wakes who waits on the other', async () => {
    const q = await queue({ paused: true })
    await send(a, q, 'x')
    const waiting = receive(b, q, 1, { waitMs: 10_000 })
    expect(await receive(a, q)).toEqual([])
    await a.admin.putQueue(q, { paused: false })
    expect(bodies(await waiting)).toEqual(['x'])
  })

  test('a message is found by its id wherever it lies', async () => {
    const q = await queue({ maxAttempts: 2 })
    const [id = ''] = await send(a, q, 'x')
    const state = async () => (await a.admin.getMessage(q, id)).state
    expect(await state()).toBe('ready')
    const [one] = await receive(a, q)
    expect(await state()).toBe('leased')
    await settle(a, { action: 'nack', receipt: one?.receipt ?? '', delayMs: 100 })
    expect(await state()).toBe('delayed')
    const [two] = await receive(a, q, 1, { waitMs: 5000 })
    expect([two?.id, await state()]).toEqual([id, 'leased'])
    await settle(a, { action: 'nack', receipt: two?.receipt ?? '', delayMs: 0 })
    expect(await state()).toBe('dead')
    await a.admin.deleteMessage(q, id)
    await expect(a.admin.getMessage(q, id)).rejects.toMatchObject({ code: 'message_not_found' })
  })

  test('rates count what went in and out, over both gateways', async () => {
    const q = await queue()
    await send(a, q, '1', '2')
    await ack(a, ...(await receive(a, q, 1)))
    const stats = await a.admin.queueStats(q)
    expect(stats).toMatchObject({ ready: 1, inRate: 2 / 60, outRate: 1 / 60 })
    expect(stats.drainS).toBeNull()
  })

  test('how long a consumer took is measured from its receive to its ack, and known to the other gateway', async () => {
    const q = await queue()
    await send(a, q, '1', '2', '3')
    const held = await receive(a, q, 2)
    expect((await a.admin.queueStats(q)).serviceS).toBeNull()
    await ack(a, ...held)
    const { serviceS } = await a.admin.queueStats(q)
    expect(serviceS).toBeGreaterThan(0)
    expect(serviceS).toBeLessThan(10)
    expect(await eventually(async () => (await b.admin.queueStats(q)).serviceS)).toBeGreaterThan(0)
    expect((await a.admin.queueStats(q, 1)).desiredConsumers).toBeGreaterThanOrEqual(1)
  }, 20_000)
})
