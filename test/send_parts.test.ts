/** The statement that stores messages has parts that are left out when a batch does not need them. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { type SendParts, sendText } from '../src/store/send_text.ts'
import { brokerOn, message, receive, send } from './support/broker.ts'
import { eventually, type TestDatabase, testDatabase } from './support/postgres.ts'

let db: TestDatabase
let broker: Broker

beforeAll(async () => {
  db = await testDatabase()
  broker = brokerOn(db.url)
  await broker.start()
})
afterAll(async () => {
  await broker.stop(1000)
  await db.drop()
})

const yesOrNo = [false, true]
const combinations: SendParts[] = yesOrNo.flatMap((bounded) =>
  yesOrNo.flatMap((keyed) =>
    yesOrNo.flatMap((dedup) =>
      yesOrNo.flatMap((delays) =>
        [
          { hands: false, fences: false },
          { hands: true, fences: false },
          { hands: true, fences: true },
        ]
          .filter(({ hands }) => !(bounded && hands))
          .map((handing) => ({ bounded, keyed, dedup, delays, ...handing })),
      ),
    ),
  ),
)

test.each(
  combinations.map(
    (parts) =>
      [
        Object.entries(parts)
          .filter(([, is]) => is)
          .map(([name]) => name)
          .join(', ') || 'none',
        parts,
      ] as const,
  ),
)('with the parts %s it is a statement that Postgres takes, and names its parameters once', async (_, parts) => {
  const { text, names } = sendText(parts)
  expect(text).not.toMatch(/\[!?[a-z]+\] /)
  expect(text).toMatch(/^\/\* send/)
  expect(new Set(names).size).toBe(names.length)
  await db.sql.unsafe(`prepare tried as ${text}`)
  await db.sql.unsafe('deallocate tried')
})

test('a delay that another gateway has just given to a queue holds, though this one has not heard of it', async () => {
  for (const [name, settings] of Object.entries({
    plain: {},
    bounded: { maxMessages: 10 },
    keyed: { order: 'keyed' as const },
  })) {
    await broker.admin.putQueue(name, settings)
    await send(broker, name, message('at once', { key: 'k' }))
    await db.sql`update postern.queues set delay_ms = 60000 where name = ${name}`
    const [sent] = await broker.send(name, [message('later', { key: 'other' })])
    if (!sent || sent instanceof Error) throw sent ?? new Error('nothing was sent')
    expect(sent.availableAt.getTime()).toBeGreaterThan(Date.now() + 30_000)
    await eventually(async () => (await broker.admin.getQueue(name)).counts.delayed === 1)
  }
})

test('each message of a statement has its own headers, or none, whatever characters they have', async () => {
  await broker.admin.putQueue('headers', {})
  const given = [null, { a: 'quoted "\\" {text}, NULL\u001e' }, null, {}, { a: 'é\u2028🙂', b: '' }, null]
  await send(broker, 'headers', ...given.map((headers, at) => message(String(at), { headers })))
  await send(broker, 'headers', message('alone', { headers: null }))
  const got = await receive(broker, 'headers', 10)
  expect(got.map(({ headers }) => headers)).toEqual([...given.map((headers) => headers ?? {}), {}])
})
