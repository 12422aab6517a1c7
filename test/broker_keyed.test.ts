/** Keyed queues: strict order for each key, one lease of it at a time, whatever happens. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import type { Delivery, QueueSettings } from '../src/model/index.ts'
import { connect, lastPosition, sweep } from '../src/store/index.ts'
import { ack, type Bench, bodies, brokerOn, brokersOn, message, receive, send, settle } from './support/broker.ts'
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
  const name = `keyed${++names}`
  await a.admin.putQueue(name, { order: 'keyed', ...settings })
  return name
}

const of = (key: string, body: string, more: Parameters<typeof message>[1] = {}) => message(body, { key, ...more })
const take = (broker: Broker, queue: string, max = 10) => receive(broker, queue, max, { waitMs: 5000 })
const nack = (broker: Broker, delivery: Delivery | undefined, delayMs = 0) =>
  settle(broker, { action: 'nack', receipt: delivery?.receipt ?? '', delayMs })

test('a receive for one gets one of a key, and no more of it is out until that is done; others meanwhile, those without a key freely', async () => {
  const q = await keyedQueue()
  await send(a, q, of('x', 'x1'), of('x', 'x2'), of('y', 'y1'), message('free1'), message('free2'), of('x', 'x3'))
  const first: Delivery[] = []
  await eventually(async () => first.push(...(await receive(b, q, 1))) && first.length === 4)
  expect(bodies(first).sort()).toEqual(['free1', 'free2', 'x1', 'y1'])
  expect(await receive(a, q, 10)).toEqual([])
  await ack(a, ...first)
  const second = await take(b, q, 1)
  expect(bodies(second)).toEqual(['x2'])
  await ack(b, ...second)
  expect(bodies(await take(a, q))).toEqual(['x3'])
})

test('a receiver that has waited so long that its queue is forgotten gets one of a key all the same', async () => {
  const q = await keyedQueue()
  // Without LISTEN a gateway remembers a queue for a second.
  const deaf = brokerOn(bench.db.url, 4, { prepare: false })
  await deaf.start()
  const startMs = performance.now()
  const waiting = receive(deaf, q, 1, { waitMs: 10_000 })
  await eventually(() => performance.now() - startMs > 1500)
  await send(a, q, of('k', '1'), of('k', '2'), of('k', '3'))
  expect(bodies(await waiting)).toEqual(['1'])
  // Whatever the lease set going has had its time when a message of another key has gone the same way.
  await send(a, q, of('other', 'x'))
  expect(bodies(await take(b, q))).toEqual(['x'])
  expect(await receive(b, q, 10)).toEqual([])
  await deaf.stop(1000)
})

test('a failing message blocks its key through retries and backoff, and no other; then it is a dead letter and the key goes on', async () => {
  const q = await keyedQueue({ maxAttempts: 3 })
  await send(a, q, of('bad', '1'), of('bad', '2'))
  const good: string[] = []
  async function nextBad(broker: Broker): Promise<Delivery> {
    for (;;) {
      for (const got of await take(broker, q, 1)) {
        if (got.key === 'bad') return got
        good.push(got.body.toString())
        await ack(broker, got)
      }
    }
  }
  for (let attempt = 1; attempt <= 3; attempt++) {
    const got = await nextBad(attempt % 2 ? a : b)
    expect([got.body.toString(), got.attempt]).toEqual(['1', attempt])
    await send(b, q, of('good', `${attempt}`))
    await nack(b, got, 50)
  }
  expect((await nextBad(b)).body.toString()).toBe('2')
  expect((await a.admin.getQueue(q)).counts.dead).toBe(1)
  await eventually(async () => {
    for (const got of await receive(a, q, 5)) {
      good.push(got.body.toString())
      await ack(a, got)
    }
    return good.length === 3
  })
  expect(good).toEqual(['1', '2', '3'])
})

test('a receive may ask for few of one key; what is more stays in its order, uncounted', async () => {
  await a.admin.putQueue('mixed-keys', {})
  await send(
    a,
    'mixed-keys',
    of('x', 'x1'),
    of('x', 'x2'),
    of('y', 'y1'),
    of('x', 'x3'),
    message('free1'),
    message('free2'),
  )
  const { signal } = new AbortController()
  const options = { max: 10, waitMs: 0, leaseMs: null, signal, perKey: 1 }
  expect(bodies((await b.receive('mixed-keys', options)).messages)).toEqual(['x1', 'y1', 'free1', 'free2'])
  await eventually(async () => (await a.admin.getQueue('mixed-keys')).counts.ready === 2)
  expect((await take(a, 'mixed-keys')).map((each) => [each.body.toString(), each.attempt])).toEqual([
    ['x2', 1],
    ['x3', 1],
  ])
})

test('a lease that runs out keeps its key, and the message comes again first', async () => {
  const q = await keyedQueue({ leaseMs: 1000 })
  await send(a, q, of('k', '1'), of('k', '2'))
  expect(bodies(await take(a, q, 1))).toEqual(['1'])
  const again = await take(b, q)
  expect(again).toMatchObject([{ attempt: 2 }])
  expect(bodies(again)).toEqual(['1'])
  await ack(b, ...again)
  expect(bodies(await take(a, q))).toEqual(['2'])
})

test('a delay keeps the order of its key', async () => {
  const q = await keyedQueue()
  const startMs = performance.now()
  await send(a, q, of('k', '1', { delayMs: 300 }), of('k', '2'), of('k', '3', { delayMs: 400 }), of('other', 'now'))
  expect(bodies(await take(b, q))).toEqual(['now'])
  const got = await take(b, q)
  expect(performance.now() - startMs).toBeGreaterThan(299)
  // The third ends the run: it is not due yet.
  expect(bodies(got)).toEqual(['1', '2'])
  await ack(a, ...got)
  expect(bodies(await take(a, q))).toEqual(['3'])
  expect(performance.now() - startMs).toBeGreaterThan(399)
})

test('what waits behind its key is counted, browsed, found, deleted and purged as ready', async () => {
  const q = await keyedQueue()
  const ids = await send(a, q, of('k', '1'), of('k', '2'), of('k', '3'), of('k', '4'))
  expect((await b.admin.getQueue(q)).counts.ready).toBe(4)
  const { data } = await b.admin.browseMessages(q, 'ready', { limit: 10, cursor: null })
  expect(data.map((each) => each.body.toString())).toEqual(['1', '2', '3', '4'])
  const page = await b.admin.browseMessages(q, 'ready', { limit: 2, cursor: null })
  const rest = await b.admin.browseMessages(q, 'ready', { limit: 2, cursor: page.nextCursor })
  expect(rest.data.map((each) => each.body.toString())).toEqual(['3', '4'])
  expect(await b.admin.getMessage(q, ids[2] ?? '')).toMatchObject({ state: 'ready', key: 'k' })
  await a.admin.deleteMessage(q, ids[1] ?? '')
  await ack(a, ...(await take(a, q, 1)))
  expect(bodies(await take(b, q, 1))).toEqual(['3'])
  // The one that is out, deleted by an operator, makes way too.
  await a.admin.deleteMessage(q, ids[2] ?? '')
  expect(bodies(await take(b, q))).toEqual(['4'])
  await send(a, q, of('k', '5'), of('k', '6'))
  await a.admin.purgeQueue(q, ['ready', 'delayed', 'leased'])
  await eventually(async () => {
    const { counts } = await b.admin.getQueue(q)
    return counts.ready + counts.leased === 0
  })
  await a.admin.deleteQueue(q, false)
})

test('a key whose first message vanished without a word goes on by itself', async () => {
  const q = await keyedQueue()
  await send(a, q, of('k', '1'), of('k', '2'))
  expect(bodies(await take(a, q, 1))).toEqual(['1'])
  // As if a gateway had died between its ack and moving up the next.
  await bench.db.sql`delete from postern.messages m using postern.queues q where q.id = m.queue_id and q.name = ${q}`
  expect(bodies(await receive(b, q, 1, { waitMs: 15_000 }))).toEqual(['2'])
}, 30_000)

test('copies of a publish, dead letters that come back, dedup and bounds keep to the rules', async () => {
  const q = await keyedQueue({ maxMessages: 4 })
  await a.admin.putTopic('to-keyed', {})
  await a.admin.putBinding('to-keyed', 'x', { queue: q, pattern: '#', filter: null })
  await a.publish('to-keyed', '', of('k', '1'))
  await b.publish('to-keyed', '', of('k', '2'))
  await send(a, q, of('k', '3', { dedupId: 'd' }))
  const [again] = await a.send(q, [of('k', '3', { dedupId: 'd' })])
  expect(again).toMatchObject({ deduplicated: true })
  await send(a, q, of('k', '4'))
  await expect(a.publish('to-keyed', '', of('k', '5'))).rejects.toMatchObject({ code: 'queue_full' })
  expect(await a.send(q, [of('k', '5')])).toMatchObject([{ code: 'queue_full' }])
  for (const expected of ['1', '2', '3', '4']) {
    const got = await take(b, q, 1)
    expect(bodies(got)).toEqual([expected])
    await ack(a, ...got)
  }
})

test('with on_dead: block a dead letter stops its key until somebody says how to go on', async () => {
  const q = await keyedQueue({ onDead: 'block', maxAttempts: 1 })
  await send(a, q, of('k', '1'), of('k', '2'), of('k', '3'))
  const [first] = await take(a, q)
  await settle(b, { action: 'reject', receipt: first?.receipt ?? '', reason: 'broken' })
  await send(b, q, of('other', 'x'))
  const other = await take(a, q)
  expect(bodies(other)).toEqual(['x'])
  await ack(a, ...other)
  expect(await receive(b, q, 10)).toEqual([])
  const blocked = async () => (await b.admin.browseKeys(q, true, { limit: 10, cursor: null })).data
  expect(await blocked()).toMatchObject([
    { key: 'k', waiting: 2, blocked: { messageId: first?.id, reason: 'rejected', lastError: 'broken' } },
  ])
  const waiting = receive(b, q, 1, { waitMs: 10_000 })
  await a.admin.unblockKey(q, 'k', 'retry')
  const again = await waiting
  expect(again).toMatchObject([{ id: first?.id, attempt: 1 }])
  expect(await blocked()).toEqual([])
  await settle(b, { action: 'reject', receipt: again[0]?.receipt ?? '', reason: 'still' })
  await a.admin.unblockKey(q, 'k', 'drop')
  expect(bodies(await take(a, q))).toEqual(['2'])
  expect((await a.admin.getQueue(q)).counts.dead).toBe(1)
  await expect(a.admin.unblockKey(q, 'k', 'drop')).rejects.toMatchObject({ code: 'key_not_blocked' })
})

test('on a fair queue a turn is of 32: at most so many of another key come first, however many it has', async () => {
  await a.admin.putQueue('turns', { fair: true })
  const loud = Array.from({ length: 100 }, (_, at) => `l${at}`)
  await send(a, 'turns', ...loud.map((body) => of('loud', body)))
  await send(b, 'turns', of('quiet', 'q1'), of('quiet', 'q2'), of('quiet', 'q3'))
  const seen: string[] = []
  /** One at a time, so that each that is done may bring the next into its key's turn. */
  const until = async (body: string) => {
    const from = seen.length
    while (!seen.includes(body)) {
      const got = await take(a, 'turns', 1)
      seen.push(...bodies(got))
      await ack(a, ...got)
    }
    return seen.slice(from)
  }
  expect(await until('q3')).toEqual([...loud.slice(0, 32), 'q1', 'q2', 'q3'])
  await until('l39')
  await send(b, 'turns', of('quiet', 'q4'))
  const before = await until('q4')
  expect(before.length).toBeGreaterThan(1)
  expect(before.length).toBeLessThanOrEqual(33)
  await until('l99')
  expect(seen.filter((body) => body.startsWith('l'))).toEqual(loud)
})

test('on a fair queue a tenant with thousands of messages does not delay one with three', async () => {
  await a.admin.putQueue('fair', { fair: true })
  for (let n = 0; n < 5; n++)
    await a.send(
      'fair',
      Array.from({ length: 1000 }, (_, at) => of('loud', `l${n * 1000 + at}`)),
    )
  await send(b, 'fair', of('quiet', 'q1'), of('quiet', 'q2'), message('free'), of('quiet', 'q3'))
  const seen: string[] = []
  while (!seen.includes('q3')) {
    const got = await take(seen.length % 2 ? a : b, 'fair', 10)
    seen.push(...bodies(got))
    await ack(a, ...got)
  }
  // Those of the loud one that were ready, and a few turns more.
  expect(seen.length).toBeLessThan(300)
  expect((await a.admin.browseKeys('fair', false, { limit: 10, cursor: null })).data).toMatchObject([{ key: 'loud' }])
  for (let total = seen.length; total < 5004; ) {
    const got = await take(a, 'fair', 100)
    seen.push(...bodies(got))
    total += got.length
    await ack(b, ...got)
  }
  expect(new Set(seen).size).toBe(5004)
  const loud = seen.filter((body) => body.startsWith('l'))
  expect(loud).toEqual(Array.from({ length: 5000 }, (_, n) => `l${n}`))
  await expect(a.admin.putQueue('keyed1', { fair: true })).rejects.toMatchObject({ code: 'invalid_value' })
}, 60_000)

test('messages that are edited while they wait are not overtaken by the next of their key', async () => {
  const q = await keyedQueue()
  const count = 150
  const ids = await send(a, q, ...Array.from({ length: count }, (_, n) => of('k', `${n}`)))
  const seen: string[] = []
  let edits = 0
  const editing = Array.from({ length: 6 }, async (_, editor) => {
    while (seen.length < count) {
      // Those about to move up.
      const id = ids[Math.min(count - 1, seen.length + (editor % 3))] ?? ''
      const edited = await (editor % 2 ? a : b).admin
        .changeMessage(q, id, { headers: { editor: `${editor}` } })
        .catch((error: { code: string }) => {
          expect(['message_leased', 'message_not_found']).toContain(error.code)
          return null
        })
      if (edited) edits++
    }
  })
  while (seen.length < count) {
    const got = await take(a, q, 3)
    seen.push(...bodies(got))
    await ack(b, ...got)
  }
  await Promise.all(editing)
  expect(seen).toEqual(Array.from({ length: count }, (_, n) => `${n}`))
  expect(edits).toBeGreaterThan(count / 4)
}, 60_000)

test('random producers, consumers, nacks and crashes on two gateways: per-key order, one lease a key, nothing lost', async () => {
  const seed = Number(process.env.POSTERN_SEED ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`POSTERN_SEED=${seed}`)
  let state = seed
  const random = (n: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return (state >>> 8) % n
  }
  const q = await keyedQueue({ maxAttempts: 1000, leaseMs: 3000 })
  const keys = 12
  const each = 60
  const producing = Promise.all(
    Array.from({ length: keys }, async (_, key) => {
      for (let n = 0; n < each; ) {
        const count = Math.min(each - n, 1 + random(4))
        const some = Array.from({ length: count }, (_, at) => of(`${key}`, `${n + at}`))
        await send(random(2) ? a : b, q, ...some)
        n += count
      }
    }),
  )
  const next = Array.from({ length: keys }, () => 0)
  const out = new Map<string, number>()
  let done = 0
  /** One key's messages of one answer: consecutive, and nobody else has any of it. A consumer settles them in order, or fails. */
  async function work(broker: Broker, key: string, run: readonly Delivery[]): Promise<void> {
    // When the lease of whoever has it ends, by the one clock of this machine.
    expect(out.get(key) ?? 0, `key ${key} is out twice`).toBeLessThan(Date.now())
    expect(bodies(run), `key ${key}`).toEqual(run.map((_, at) => `${(next[Number(key)] ?? 0) + at}`))
    out.set(key, Number.POSITIVE_INFINITY)
    for (const [at, got] of run.entries()) {
      // Crashed: the leases run out.
      if (random(80) === 0) return void out.set(key, got.leaseExpiresAt.getTime() - 1)
      await new Promise((resolve) => setImmediate(resolve))
      if (random(6) === 0) {
        // Before the gateway may hand the key to somebody else.
        out.set(key, 0)
        await nack(broker, got, random(2) * 20)
        const late = run.slice(at + 1)
        const outcomes = late.length === 0 ? [] : await ack(broker, ...late)
        // Unless somebody else has had them, and all before, meanwhile.
        const lost = outcomes.filter(
          (outcome, n) => outcome === 'lease_lost' || Number(late[n]?.body) < (next[Number(key)] ?? 0),
        )
        expect(lost.length).toBe(late.length)
        return
      }
      next[Number(key)] = Number(got.body) + 1
      done++
      if (at === run.length - 1) out.set(key, 0)
      expect(await ack(broker, got)).toEqual(['acked'])
    }
  }
  let longest = 0
  await Promise.all(
    Array.from({ length: 8 }, async (_, consumer) => {
      const broker = consumer % 2 ? a : b
      while (done < keys * each) {
        const runs = new Map<string, Delivery[]>()
        for (const got of await receive(broker, q, 1 + random(8), { waitMs: 200 }))
          runs.set(got.key ?? '', [...(runs.get(got.key ?? '') ?? []), got])
        for (const [key, run] of runs) {
          longest = Math.max(longest, run.length)
          await work(broker, key, run)
        }
      }
    }),
  )
  await producing
  expect(next.every((n) => n === each)).toBe(true)
  expect(longest).toBeGreaterThan(1)
  expect((await a.admin.getQueue(q)).counts).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
}, 120_000)

test('what moves up behind its key while a queue is purged is purged too, and what is sent meanwhile is not', async () => {
  const q = await keyedQueue()
  await send(a, q, of('k', '1'), of('k', '2'), of('k', '3'))
  const db = connect({ databaseUrl: bench.db.url, pool: 2, prepare: true })
  const upTo = await lastPosition(db)
  await ack(a, ...(await take(a, q, 1)))
  await send(a, q, of('k', '4'))
  const [queue] = await bench.db.sql`select id from postern.queues where name = ${q}`
  const isUp = () => bench.db.sql`select 1 from postern.messages where queue_id = ${queue?.id} and position > ${upTo}`
  await eventually(async () => (await isUp()).length === 1)
  expect(await sweep(db, [queue?.id], ['ready'], upTo, 1000)).toBe(2)
  await db.close()
  expect(bodies(await take(b, q))).toEqual(['4'])
})

test('drop_oldest makes room among what waits behind its key', async () => {
  const q = await keyedQueue({ maxMessages: 3, overflow: 'drop_oldest' })
  for (let n = 1; n <= 5; n++) await send(a, q, of('k', `${n}`))
  expect(bodies(await take(b, q))).toEqual(['3', '4', '5'])
  const leased = await keyedQueue({ maxMessages: 3, overflow: 'drop_oldest' })
  await send(a, leased, of('k', '1'), of('k', '2'), of('other', 'x'))
  const [first] = (await take(a, leased, 1)) as [Delivery]
  const [second] = (await take(a, leased, 1)) as [Delivery]
  expect(new Set([first.key, second.key])).toEqual(new Set(['k', 'other']))
  await send(a, leased, of('k', '3'))
  await ack(a, first, second)
  expect(bodies(await take(b, leased))).toEqual(['3'])
})

test('a message of which the deletion comes to nothing is not overtaken', async () => {
  const q = await keyedQueue()
  await send(a, q, of('k', '1'), of('k', '2'), of('k', '3'))
  const [first] = (await take(a, q, 1)) as [Delivery]
  const reserved = await bench.db.sql.reserve()
  await reserved`begin`
  await reserved`delete from postern.waiting where key = 'k' and convert_from(body, 'utf8') = '2'
    and queue_id = (select id from postern.queues where name = ${q})`
  await ack(a, first)
  // Whatever the ack set going has had its time when a message of another key has gone the same way.
  await send(a, q, of('other', 'x'), of('other', 'y'))
  const [x] = (await take(a, q, 1)) as [Delivery]
  await ack(a, x)
  expect(bodies(await take(b, q))).toEqual(['y'])
  await reserved`rollback`
  reserved.release()
  expect(bodies(await take(b, q))).toEqual(['2', '3'])
})
