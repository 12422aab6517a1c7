/** What happens when many do it at once, or somebody goes in the middle. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { ack, type Bench, brokerOn, brokersOn, message, receive, send, settle } from './support/broker.ts'
import { eventually, testDatabase } from './support/postgres.ts'

let bench: Bench
let a: Broker
let b: Broker

beforeAll(async () => {
  bench = await brokersOn(2)
  ;[a, b] = bench.brokers as [Broker, Broker]
})
afterAll(() => bench.stop())

test('50 receivers on 10,000 messages: none twice, none lost', async () => {
  await a.admin.putQueue('many', {})
  for (let n = 0; n < 10; n++)
    await a.send(
      'many',
      Array.from({ length: 1000 }, (_, at) => message(`${n * 1000 + at}`)),
    )
  const seen = new Map<string, number>()
  await Promise.all(
    Array.from({ length: 50 }, async (_, n) => {
      const broker = n % 2 ? a : b
      for (;;) {
        const got = await receive(broker, 'many', (n % 7) + 1)
        if (got.length === 0) return
        for (const { id } of got) seen.set(id, (seen.get(id) ?? 0) + 1)
        await ack(broker, ...got)
      }
    }),
  )
  expect(seen.size).toBe(10_000)
  expect([...seen.values()].every((times) => times === 1)).toBe(true)
  expect((await a.admin.getQueue('many')).counts).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
})

test('a receiver that hangs up while it waits leaves no lease and no place behind', async () => {
  await a.admin.putQueue('gone', {})
  const leaving = Array.from({ length: 20 }, () => new AbortController())
  const answers = leaving.map(({ signal }) => receive(a, 'gone', 1, { waitMs: 20_000, signal }))
  await eventually(() => true)
  for (const each of leaving) each.abort()
  expect((await Promise.all(answers)).flat()).toEqual([])
  await send(a, 'gone', 'x')
  expect(await receive(b, 'gone', 1, { waitMs: 2000 })).toMatchObject([{ attempt: 1 }])
})

test('a receiver that hangs up while its message is being leased: the next gets it at once, attempt still 1', async () => {
  await a.admin.putQueue('middle', {})
  for (let round = 0; round < 30; round++) {
    const controller = new AbortController()
    const first = receive(a, 'middle', 1, { waitMs: round % 2 ? 20_000 : 0, signal: controller.signal })
    const sent = send(a, 'middle', `${round}`)
    if (round % 3 === 0) await sent
    setImmediate(() => controller.abort())
    const [early] = await first
    await sent
    const [got] = early ? [early] : await receive(b, 'middle', 1, { waitMs: 3000 })
    expect(got?.attempt).toBe(1)
    await ack(b, ...(got ? [got] : []))
  }
})

test('an answer that was not written is given back uncounted', async () => {
  await a.admin.putQueue('back', {})
  await send(a, 'back', 'x')
  const received = await a.receive('back', { max: 1, waitMs: 0, leaseMs: null, signal: new AbortController().signal })
  expect(received.messages).toHaveLength(1)
  await received.giveBack()
  expect(await receive(b, 'back', 1, { waitMs: 2000 })).toMatchObject([{ attempt: 1 }])
})

test('an ack that is under way while the lease runs out: the message is neither lost nor handed out twice', async () => {
  await a.admin.putQueue('edge', { leaseMs: 1000 })
  await send(a, 'edge', 'x')
  const [got] = await receive(a, 'edge')
  // Somebody holds the row, as an ack does that has not committed, over the end of the lease; then it rolls back.
  await bench.db.sql
    .begin(async (tx) => {
      await tx`delete from postern.messages where body = 'x'::bytea`
      await eventually(async () => {
        const [row] = await bench.db
          .sql`select min(expires_at) < now() - interval '0.5 s' as over from postern.leases where queue_id = (select id from postern.queues where name = 'edge')`
        return row?.over
      })
      throw new Error('roll back')
    })
    .catch(() => {})
  const [again] = await receive(b, 'edge', 1, { waitMs: 5000 })
  expect(again).toMatchObject({ id: got?.id, attempt: 2 })
})

test('with a wrong mark only time is lost: what lies behind it is found by the sweep', async () => {
  const database = await testDatabase()
  // Alone and deaf: nothing is announced to it.
  const lone = brokerOn(database.url)
  await lone.start()
  await lone.admin.putQueue('marked', {})
  await send(lone, 'marked', 'seen')
  await ack(lone, ...(await receive(lone, 'marked')))
  expect(await receive(lone, 'marked')).toEqual([])
  // Appears ready behind the mark, as after a rollback elsewhere, without a word.
  await database.sql`insert into postern.messages (queue_id, lane, position, id, enqueued_at, expires_at, content_type, body)
    select id, 9, -5, 5, now(), now() + interval '1 h', 'text/plain', 'hidden' from postern.queues where name = 'marked'`
  expect(await receive(lone, 'marked')).toEqual([])
  const [found] = await receive(lone, 'marked', 1, { waitMs: 15_000 })
  expect(found?.body.toString()).toBe('hidden')
  await lone.stop(1000)
  await database.drop()
})

test('a message sent on one gateway wakes a receiver on the other, as does a nack and an expiry', async () => {
  await a.admin.putQueue('wake', {})
  const first = receive(b, 'wake', 1, { waitMs: 10_000, leaseMs: 1000 })
  await send(a, 'wake', 'x')
  expect(await first).toHaveLength(1)
  const second = await receive(a, 'wake', 1, { waitMs: 10_000 })
  expect(second).toMatchObject([{ attempt: 2 }])
  const third = receive(b, 'wake', 1, { waitMs: 10_000 })
  await settle(a, { action: 'nack', receipt: second[0]?.receipt ?? '', delayMs: 0 })
  expect(await third).toMatchObject([{ attempt: 3 }])
})

test('with two connections and 200 callers everything is answered', async () => {
  const database = await testDatabase()
  const small = brokerOn(database.url, 2)
  await small.start()
  await small.admin.putQueue('small', {})
  await Promise.all(
    Array.from({ length: 200 }, async (_, n) => {
      await send(small, 'small', `${n}`)
      await ack(small, ...(await receive(small, 'small', 1, { waitMs: 10_000 })))
    }),
  )
  expect((await small.admin.getQueue('small')).counts).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
  await small.stop(1000)
  await database.drop()
})

test('a revoked key is refused on the other gateway within a second', async () => {
  const key = await a.admin.createKey({
    name: 'k',
    scopes: [{ actions: ['send'], queues: ['*'], topics: [] }],
    expiresAt: null,
    rate: null,
  })
  expect(await b.authenticate(key.secret)).toMatchObject({ id: key.id, root: false })
  expect(await b.authenticate(`${key.secret.slice(0, -1)}${key.secret.endsWith('A') ? 'B' : 'A'}`)).toBeNull()
  await a.admin.deleteKey(key.id)
  await eventually(async () => (await b.authenticate(key.secret)) === null, 1000)
})

test('10,000 parked receivers: others are served meanwhile, each message goes to one, and leaving leaves nothing', async () => {
  const names = Array.from({ length: 10 }, (_, n) => `parked${n}`)
  for (const name of names) await a.admin.putQueue(name, {})
  const controllers = Array.from({ length: 10_000 }, () => new AbortController())
  const got: string[] = []
  const parked = controllers.map(async ({ signal }, n) => {
    const messages = await receive(a, names[n % 10] ?? '', 1, { waitMs: 50_000, signal })
    got.push(...messages.map((each) => each.id))
    await ack(a, ...messages)
  })
  await a.admin.putQueue('busy', {})
  for (let n = 0; n < 50; n++) {
    await send(a, 'busy', 'x')
    expect(await ack(a, ...(await receive(a, 'busy')))).toEqual(['acked'])
  }
  const sent = (await Promise.all(names.map((name, n) => send(n % 2 ? a : b, name, 'one', 'two', 'three')))).flat()
  await eventually(() => got.length === 30)
  expect(got.sort()).toEqual(sent.sort())
  for (const each of controllers) each.abort()
  await Promise.all(parked)
  for (const name of names)
    expect((await a.admin.getQueue(name)).counts).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
})

test('a listening connection that dies without a word is noticed, and messages come through meanwhile', async () => {
  const database = await testDatabase()
  const proxy = await silencer(database.url)
  const events: string[] = []
  const deaf = brokerOn(database.url, 4, { listenUrl: proxy.url, log: (event) => events.push(event) })
  const other = brokerOn(database.url, 4)
  await Promise.all([deaf.start(), other.start()])
  await other.admin.putQueue('heard', {})
  proxy.silence()
  const waiting = receive(deaf, 'heard', 1, { waitMs: 20_000 })
  await eventually(() => true)
  await send(other, 'heard', 'x')
  expect(await waiting).toHaveLength(1)
  await eventually(() => events.includes('listening again'), 15_000)
  await Promise.all([deaf.stop(1000), other.stop(1000)])
  await proxy.close()
  await database.drop()
})

/** Passes connections on to Postgres; those open when it is told to be silent stay open and say nothing more. */
async function silencer(databaseUrl: string): Promise<{ url: string; silence(): void; close(): Promise<void> }> {
  const target = new URL(databaseUrl)
  const pairs = new Set<[Socket, Socket]>()
  const server = createServer((near) => {
    const far = connect(Number(target.port), target.hostname)
    pairs.add([near, far])
    near.on('error', () => {}).pipe(far)
    far.on('error', () => {}).pipe(near)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = new URL(databaseUrl)
  url.port = String((server.address() as AddressInfo).port)
  return {
    url: url.href,
    silence() {
      for (const [near, far] of pairs) {
        near.unpipe(far)
        far.unpipe(near)
      }
    },
    async close() {
      for (const pair of pairs) for (const socket of pair) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
