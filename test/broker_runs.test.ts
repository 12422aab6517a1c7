/** Runs: several consecutive messages of one key in one lease, which fail together. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import type { Delivery, QueueSettings } from '../src/model/index.ts'
import { ack, type Bench, bodies, brokersOn, message, receive, send, settle } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

let bench: Bench
let a: Broker
let b: Broker

beforeAll(async () => {
  bench = await brokersOn(2)
  ;[a, b] = bench.brokers as [Broker, Broker]
})
afterAll(() => bench.stop())

let names = 0
async function keyedQueue(settings: Partial<QueueSettings> = {}): Promise<string> {
  const name = `runs${++names}`
  await a.admin.putQueue(name, { order: 'keyed', ...settings })
  return name
}

const of = (key: string, body: string, more: Parameters<typeof message>[1] = {}) => message(body, { key, ...more })
const count = (from: number, to: number): string[] => Array.from({ length: to - from + 1 }, (_, at) => `${from + at}`)
const fill = (queue: string, key: string, to: number) => send(a, queue, ...count(1, to).map((body) => of(key, body)))
const take = (broker: Broker, queue: string, max = 10) => receive(broker, queue, max, { waitMs: 5000 })
const nack = (delivery: Delivery | undefined, delayMs = 0) =>
  settle(a, { action: 'nack', receipt: delivery?.receipt ?? '', delayMs })
const reject = (delivery: Delivery | undefined) =>
  settle(a, { action: 'reject', receipt: delivery?.receipt ?? '', reason: 'broken' })
/** Counts may be as old as what they cost. */
const counted = (queue: string, expected: { ready: number; leased: number }) =>
  eventually(async () => {
    const { ready, leased } = (await a.admin.getQueue(queue)).counts
    return ready === expected.ready && leased === expected.leased
  })
const seen = (deliveries: readonly Delivery[]): string[] => deliveries.map((each) => `${each.body} ${each.attempt}`)

test('a lease takes consecutive messages of a key, in order, and nobody else has any of it until all are settled', async () => {
  const q = await keyedQueue()
  await fill(q, 'k', 8)
  const run = await take(a, q, 5)
  expect(seen(run)).toEqual(['1 1', '2 1', '3 1', '4 1', '5 1'])
  await counted(q, { ready: 3, leased: 5 })
  const { data } = await a.admin.browseMessages(q, 'leased', { limit: 10, cursor: null })
  expect(data.map((each) => each.body.toString()).sort()).toEqual(count(1, 5))
  // In whatever order they are settled: the last one ends it.
  for (const at of [4, 0, 2, 1]) {
    await ack(b, ...run.slice(at, at + 1))
    expect(await receive(b, q, 10)).toEqual([])
  }
  const waiting = take(b, q)
  await ack(a, ...run.slice(3, 4))
  expect(bodies(await waiting)).toEqual(['6', '7', '8'])
})

test('what fails takes back all that was leased after it, and what was before it stays leased', async () => {
  const q = await keyedQueue()
  await fill(q, 'k', 6)
  const run = await take(a, q, 5)
  expect(await nack(run[2], 0)).toEqual(['nacked'])
  await counted(q, { ready: 4, leased: 2 })
  expect(await ack(b, ...run.slice(3))).toEqual(['lease_lost', 'lease_lost'])
  expect(await nack(run[4])).toEqual(['lease_lost'])
  expect(await receive(b, q, 10)).toEqual([])
  expect(await ack(b, ...run.slice(0, 2))).toEqual(['acked', 'acked'])
  // What was delivered before comes alone.
  for (const expected of [['3 2'], ['4 2'], ['5 2'], ['6 1']]) {
    const got = await take(b, q)
    expect(seen(got)).toEqual(expected)
    await ack(a, ...got)
  }
})

test('of what one call says of a run, what fails counts first', async () => {
  const q = await keyedQueue()
  for (let round = 0; round < 20; round++) {
    await fill(q, `${round}`, 3)
    const [first, second, third] = (await take(a, q, 3)).map(({ receipt }) => receipt)
    const outcomes = await settle(
      b,
      { action: 'ack', receipt: first ?? '' },
      { action: 'ack', receipt: third ?? '' },
      { action: 'nack', receipt: second ?? '', delayMs: 60_000 },
    )
    expect(outcomes).toEqual(['acked', 'lease_lost', 'nacked'])
  }
})

test('a nack with a delay holds the whole key back', async () => {
  const q = await keyedQueue()
  await fill(q, 'k', 3)
  const startMs = performance.now()
  await nack((await take(a, q))[0], 300)
  const again = await take(b, q)
  expect(performance.now() - startMs).toBeGreaterThan(299)
  expect(seen(again)).toEqual(['1 2'])
})

test('when the lease of a run runs out, it comes again in its order, each message once more', async () => {
  const q = await keyedQueue({ leaseMs: 1000 })
  await fill(q, 'k', 4)
  const run = await take(a, q)
  expect(bodies(run)).toEqual(count(1, 4))
  await ack(a, ...run.slice(0, 1))
  for (const expected of [['2 2'], ['3 2'], ['4 2']]) {
    const got = await take(b, q)
    expect(seen(got)).toEqual(expected)
    await ack(b, ...got)
  }
})

test('extending one message of a run does not let the next be handed out before it', async () => {
  const q = await keyedQueue({ leaseMs: 1000 })
  await fill(q, 'k', 2)
  const run = await take(a, q)
  // The first runs out: the second goes back with it, however long it was extended.
  await settle(a, { action: 'extend', receipt: run[1]?.receipt ?? '', leaseMs: 60_000 })
  expect(seen(await take(b, q, 1))).toEqual(['1 2'])
  expect(await ack(a, ...run.slice(1))).toEqual(['lease_lost'])
})

test('a dead letter lets those leased after it be; when it blocks its key they go back', async () => {
  const q = await keyedQueue()
  await fill(q, 'k', 3)
  const run = await take(a, q)
  await reject(run[0])
  expect(await receive(b, q, 10)).toEqual([])
  expect(await ack(a, ...run.slice(1))).toEqual(['acked', 'acked'])

  const blocking = await keyedQueue({ onDead: 'block' })
  await fill(blocking, 'k', 4)
  const [first, second, third] = await take(a, blocking, 3)
  await reject(second)
  expect(await ack(a, ...(third ? [third] : []))).toEqual(['lease_lost'])
  expect(await ack(a, ...(first ? [first] : []))).toEqual(['acked'])
  await send(b, blocking, of('other', 'x'))
  expect(bodies(await take(b, blocking))).toEqual(['x'])
  await a.admin.unblockKey(blocking, 'k', 'retry')
  const again = await take(b, blocking)
  // Its attempts begin anew, and so it leads; the third was delivered, and comes alone.
  expect(seen(again)).toEqual(['2 1'])
  await ack(b, ...again)
  expect(seen(await take(b, blocking))).toEqual(['3 2'])
})

test('what fails before a dead letter that blocks its key comes again before it', async () => {
  const q = await keyedQueue({ onDead: 'block' })
  await fill(q, 'k', 3)
  const [first, second] = await take(a, q, 2)
  await reject(second)
  await nack(first)
  await send(b, q, of('other', 'x'))
  expect(bodies(await take(b, q))).toEqual(['x'])
  await a.admin.unblockKey(q, 'k', 'retry')
  for (const expected of [['1 2'], ['2 1', '3 1']]) {
    const got = await take(b, q)
    expect(seen(got)).toEqual(expected)
    await ack(b, ...got)
  }
})

test('when several of a run die, each of them blocks its key: all are tried again, in their order, or all stay dead', async () => {
  for (const action of ['retry', 'drop'] as const) {
    const q = await keyedQueue({ onDead: 'block' })
    await fill(q, 'k', 4)
    const [first, second, third] = await take(a, q, 3)
    await reject(third)
    await reject(first)
    expect(await ack(a, ...(second ? [second] : []))).toEqual(['lease_lost'])
    for (const blocked of [true, false]) {
      const { data } = await a.admin.browseKeys(q, blocked, { limit: 10, cursor: null })
      expect(data).toMatchObject([{ key: 'k', waiting: 2, blocked: { messageId: first?.id } }])
    }
    await a.admin.unblockKey(q, 'k', action)
    for (const expected of action === 'retry' ? ['1', '2', '3', '4'] : ['2', '4']) {
      const got = await take(b, q, 1)
      expect(bodies(got)).toEqual([expected])
      await ack(b, ...got)
    }
  }
})

test('a message is deleted though a lease takes it along at that moment', async () => {
  const q = await keyedQueue()
  const ids = await fill(q, 'k', 3)
  const reserved = await bench.db.sql.reserve()
  await reserved`begin`
  // As a lease does: from behind its key to what is leased.
  await reserved`with d as (
      delete from postern.waiting where key = 'k' and convert_from(body, 'utf8') = '2'
        and queue_id = (select id from postern.queues where name = ${q}) returning *)
    insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, attempts, content_type, key, body, chain, follows,
      lease_token, leased_until)
    select queue_id, lane, nextval('postern.message_position'), id, enqueued_at, expires_at, 1, content_type, key, body, position, position - 1,
      1, now() + interval '1 hour' from d`
  const deleting = a.admin.deleteMessage(q, ids[1] ?? '')
  await eventually(async () => (await bench.db.sql`select 1 from pg_locks where not granted`).length > 0)
  await reserved`commit`
  reserved.release()
  await deleting
  expect(await a.admin.getMessage(q, ids[1] ?? '').catch((error) => error.code)).toBe('message_not_found')
})

test('with one attempt only, nothing is delivered behind a message that may fail', async () => {
  const q = await keyedQueue({ maxAttempts: 1 })
  await fill(q, 'k', 2)
  expect(bodies(await take(a, q))).toEqual(['1'])
})

test('a run has an end: per_key, max_leased, the time it is due, the bytes of an answer', async () => {
  const q = await keyedQueue()
  await fill(q, 'k', 5)
  const { signal } = new AbortController()
  const { messages } = await a.receive(q, { max: 10, waitMs: 5000, leaseMs: null, perKey: 2, signal })
  expect(bodies(messages)).toEqual(['1', '2'])

  const bounded = await keyedQueue({ maxLeased: 3 })
  await fill(bounded, 'k', 5)
  expect(bodies(await take(a, bounded))).toEqual(['1', '2', '3'])

  const large = await keyedQueue()
  const megabyte = Buffer.alloc(1_048_576, 'x')
  for (let n = 0; n < 2; n++)
    await a.send(
      large,
      Array.from({ length: 10 }, () => of('k', '', { body: megabyte })),
    )
  expect(await take(a, large, 20)).toHaveLength(16)
})

test('receivers that wait together get whole runs, of different keys', async () => {
  const q = await keyedQueue()
  const keys = ['x', 'y', 'z']
  const rounds = 20
  const each = 4
  const got = new Map<string, string[]>(keys.map((key) => [key, []]))
  const owners = new Map<string, number>()
  let parted = 0
  const isDone = () => [...got.values()].every((run) => run.length === rounds * each)
  const consuming = Array.from({ length: 4 }, async (_, at) => {
    const broker = at % 2 ? a : b
    while (!isDone()) {
      const deliveries = await receive(broker, q, 3, { waitMs: 100 })
      for (const { key } of deliveries) {
        if (owners.has(key ?? '') && owners.get(key ?? '') !== at) parted++
        owners.set(key ?? '', at)
      }
      for (const { key, body } of deliveries) got.get(key ?? '')?.push(body.toString())
      await new Promise((resolve) => setImmediate(resolve))
      for (const { key } of deliveries) owners.delete(key ?? '')
      await ack(broker, ...deliveries)
    }
  })
  for (let round = 0; round < rounds; round++)
    await a.send(
      q,
      keys.flatMap((key) => count(round * each + 1, (round + 1) * each).map((body) => of(key, body))),
    )
  await Promise.all(consuming)
  expect(parted).toBe(0)
  for (const run of got.values()) expect(run).toEqual(count(1, rounds * each))
}, 60_000)

test('a receive that is safe to repeat gets the same run again, in its order, whatever of it is settled', async () => {
  const q = await keyedQueue()
  await send(a, q, of('k', '1', { priority: 0 }), of('k', '2', { priority: 9 }), of('k', '3'))
  const { signal } = new AbortController()
  const again = async (broker: Broker) =>
    (await broker.receive(q, { max: 5, waitMs: 2000, leaseMs: null, signal, retryKey: 'mine' })).messages
  const first = await again(a)
  expect(bodies(first)).toEqual(['1', '2', '3'])
  expect((await again(b)).map((each) => each.receipt)).toEqual(first.map((each) => each.receipt))
  await ack(b, ...first.slice(0, 1))
  expect(bodies(await again(b))).toEqual(['2', '3'])
})

test('the first message of a key is handed to a receiver that waits, and the next of it is not', async () => {
  const q = await keyedQueue()
  const waiting = [receive(a, q, 5, { waitMs: 5000 }), receive(a, q, 5, { waitMs: 300 })]
  await eventually(async () => (await receive(b, q)).length === 0)
  const ids = await send(a, q, of('k', '1'), of('k', '2'))
  const got = (await Promise.all(waiting)).flat()
  expect(got[0]).toMatchObject({ id: ids[0], attempt: 1 })
  expect(new Set(got.map((each) => each.key)).size).toBe(1)
  const left = got.length === 1 ? ['2'] : []
  await ack(a, ...got)
  if (left.length > 0) expect(bodies(await take(b, q))).toEqual(left)
})

test('random failures: each message is delivered at most max_attempts times, a dead letter exactly so often, and none before its turn', async () => {
  const seed = Number(process.env.POSTERN_SEED ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`POSTERN_SEED=${seed}`)
  let state = seed
  const random = (n: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return (state >>> 8) % n
  }
  const maxAttempts = 3
  const q = await keyedQueue({ maxAttempts, leaseMs: 1000 })
  const keys = 6
  const each = 30
  for (let key = 0; key < keys; key++) await fill(q, `${key}`, each)
  const delivered = new Map<string, number>()
  const done = new Set<string>()
  const dead = new Set<string>()
  const isOver = () => done.size + dead.size >= keys * each
  const nameOf = ({ key, body }: Delivery): string => `${key} ${body}`
  await Promise.all(
    Array.from({ length: 6 }, async (_, consumer) => {
      const broker = consumer % 2 ? a : b
      while (!isOver()) {
        const failed = new Set<string>()
        const got = await receive(broker, q, 1 + random(6), { waitMs: 200 })
        for (const delivery of got) {
          const name = nameOf(delivery)
          const times = (delivered.get(name) ?? 0) + 1
          delivered.set(name, times)
          expect(delivery.attempt, name).toBe(times)
          expect(times, name).toBeLessThanOrEqual(maxAttempts)
          for (let before = 1; before < Number(delivery.body); before++) {
            const earlier = `${delivery.key} ${before}`
            const isHere = got.some((other) => nameOf(other) === earlier)
            expect(isHere || done.has(earlier) || dead.has(earlier), `${name} before ${earlier}`).toBe(true)
          }
        }
        for (const delivery of got) {
          const { key, attempt } = delivery
          if (failed.has(key ?? '')) continue
          const fate = random(20)
          if (fate > 9) {
            done.add(nameOf(delivery))
            expect(await ack(broker, delivery)).toEqual(['acked'])
          } else {
            // A crash leaves the lease to run out; what was leased after it goes back either way.
            failed.add(key ?? '')
            if (attempt === maxAttempts) dead.add(nameOf(delivery))
            if (fate > 0) expect(await nack(delivery)).toEqual(['nacked'])
          }
        }
      }
    }),
  )
  const letters: string[] = []
  await eventually(async () => {
    const { data } = await a.admin.browseMessages(q, 'dead', { limit: 1000, cursor: null })
    for (const letter of data) {
      expect(letter).toMatchObject({ attempts: maxAttempts, dead: { reason: 'max_attempts' } })
      expect(delivered.get(`${letter.key} ${letter.body}`)).toBe(maxAttempts)
    }
    letters.splice(0, letters.length, ...data.map((letter) => `${letter.key} ${letter.body}`))
    return letters.length === dead.size
  })
  expect(new Set(letters)).toEqual(dead)
  expect(dead.size).toBeGreaterThan(0)
}, 120_000)

test('a wrong belief about what of a key is done costs time, never a message', async () => {
  const alone = await brokersOn(1)
  const [only] = alone.brokers as [Broker]
  await only.admin.putQueue('q', { order: 'keyed' })
  await send(only, 'q', of('other', 'x'), of('k', '1'), of('k', '2'))
  const [first] = (await receive(only, 'q', 2)).filter((each) => each.key === 'k')
  // The gateway will take everything up to the first for done; now the second lies before it.
  await alone.db.sql`update postern.waiting set position = 1`
  await ack(only, ...(first ? [first] : []))
  expect(bodies(await receive(only, 'q', 1, { waitMs: 55_000 }))).toEqual(['2'])
  await alone.stop()
}, 90_000)
