/** A message that is stored leased to a receiver that waits is the one that the receiver would have found. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { type Delivery, type QueueSettings, unobserved } from '../src/model/index.ts'
import { bodies, brokerOn, message, receive, send } from './support/broker.ts'
import { eventually, type TestDatabase, testDatabase } from './support/postgres.ts'

let db: TestDatabase
let broker: Broker
/** Statements that are over, and messages by the statement that leased them. */
let looks = 0
let leasedBySend = 0
let made = 0

beforeAll(async () => {
  db = await testDatabase()
  let last = ''
  const observe = {
    ...unobserved,
    statement(name: string) {
      last = name
      if (name.startsWith('lease')) looks++
    },
    leased() {
      if (!last.startsWith('lease')) leasedBySend++
    },
  }
  broker = brokerOn(db.url, 6, { observe })
  await broker.start()
})
afterAll(async () => {
  await broker.stop(1000)
  await db.drop()
})

async function queue(settings: Partial<QueueSettings> = {}): Promise<string> {
  const name = `q${++made}`
  await broker.admin.putQueue(name, settings)
  return name
}

/** Receivers that have looked in vain, in this order, each for so many messages. */
async function parked(name: string, ...max: number[]): Promise<Promise<string[]>[]> {
  const waiting: Promise<Delivery[]>[] = []
  for (const most of max) {
    const before = looks
    waiting.push(receive(broker, name, most, { waitMs: 20_000 }))
    await eventually(() => looks > before)
  }
  return waiting.map(async (got) => bodies(await got))
}

async function topicOf(name: string): Promise<string> {
  const topic = `t-${name}`
  await broker.admin.putTopic(topic, {})
  await broker.admin.putBinding(topic, 'all', { queue: name, pattern: '#', filter: null })
  // Routed once, so that those to come leave together.
  await broker.publish(topic, '', message('0'))
  await receive(broker, name, 1)
  return topic
}

const ways: [string, (name: string) => Promise<unknown>][] = [
  ['in a batch', (name) => send(broker, name, '1', '2', '3', '4')],
  ['in several batches', (name) => Promise.all([send(broker, name, '1', '2'), send(broker, name, '3', '4')])],
  [
    'by publishing',
    (name) => Promise.all(['1', '2', '3', '4'].map((body) => broker.publish(`t-${name}`, '', message(body)))),
  ],
]

test.each(ways)('on a lifo queue the newest of what comes at once goes first: %s', async (_, all) => {
  const name = await queue({ order: 'lifo' })
  await topicOf(name)
  const before = leasedBySend
  const [one, two] = await parked(name, 1, 2)
  await all(name)
  expect([await one, await two]).toEqual([['4'], ['3', '2']])
  expect(leasedBySend - before).toBe(3)
  expect(bodies(await receive(broker, name, 10))).toEqual(['1'])
})

test.each(ways)('on a fifo queue the oldest: %s', async (_, all) => {
  const name = await queue()
  await topicOf(name)
  const before = leasedBySend
  const [one, two] = await parked(name, 1, 2)
  await all(name)
  expect([await one, await two]).toEqual([['1'], ['2', '3']])
  expect(leasedBySend - before).toBe(3)
  expect(bodies(await receive(broker, name, 10))).toEqual(['4'])
})

test('what may be a duplicate is not passed by what comes behind it', async () => {
  const fifo = await queue()
  const [first] = await parked(fifo, 1)
  await send(broker, fifo, message('1', { dedupId: 'd' }), '2')
  expect(await first).toEqual(['1'])
  const lifo = await queue({ order: 'lifo' })
  const [last] = await parked(lifo, 1)
  await send(broker, lifo, '1', message('2', { dedupId: 'd' }))
  expect(await last).toEqual(['2'])
})

test('what comes before one that may be a duplicate is handed over', async () => {
  const name = await queue()
  const before = leasedBySend
  const [one] = await parked(name, 3)
  await send(broker, name, '1', message('2', { dedupId: 'd' }), '3')
  expect(await one).toEqual(['1'])
  expect(leasedBySend - before).toBe(1)
})
