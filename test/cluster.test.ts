/** What gateways tell each other: nothing while there is only one, and all that matters from the moment there are two. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Cluster, createCluster } from '../src/broker/cluster.ts'
import type { Broker } from '../src/broker/index.ts'
import { connect } from '../src/store/index.ts'
import { bodies, brokerOn, receive, send } from './support/broker.ts'
import { eventually, type TestDatabase, testDatabase } from './support/postgres.ts'

let db: TestDatabase
let heard: string[]
let brokers: Broker[]
const waitMs = 15_000

beforeEach(async () => {
  db = await testDatabase()
  heard = []
  brokers = []
  await db.sql.listen('postern', (payload) => heard.push(payload))
})
afterEach(async () => {
  await Promise.all(brokers.map((broker) => broker.stop(1000)))
  await db.drop()
})

async function start(): Promise<Broker> {
  const broker = brokerOn(db.url)
  brokers.push(broker)
  await broker.start()
  return broker
}
const said = (word: string): string[] => heard.filter((payload) => payload.split(' ')[1] === word)
/** What is announced goes before a word that is said later. */
async function nothingLeftUnsaid(broker: Broker): Promise<void> {
  await broker.admin.putQueue('word', {})
  await broker.admin.deleteQueue('word', false)
  await eventually(() => said('queue').length > 0)
}

test('a gateway alone announces nothing that became ready; with another it does, and the other hears', async () => {
  const a = await start()
  await a.admin.putQueue('q', {})
  for (let n = 0; n < 20; n++) await send(a, 'q', `${n}`)
  await nothingLeftUnsaid(a)
  expect(said('append')).toEqual([])

  const b = await start()
  expect(await receive(b, 'q', 100)).toHaveLength(20)
  await eventually(() => said('look').length >= 2)
  const waiting = receive(b, 'q', 1, { waitMs })
  await send(a, 'q', 'told')
  expect(bodies(await waiting)).toEqual(['told'])
  await eventually(() => said('append').length > 0)
})

test('gateways that meet tell each other to look again, and each does', async () => {
  const lost: string[] = []
  const nothing = (): void => {}
  const database = connect({ databaseUrl: db.url, pool: 2, prepare: true })
  const meet = async (name: string): Promise<Cluster> => {
    const on = {
      appended: nothing,
      rung: nothing,
      queueChanged: nothing,
      keysChanged: nothing,
      subscriptionChanged: nothing,
      subscriptionsFree: nothing,
      asked: () => null,
      lost: () => void lost.push(name),
    }
    const cluster = createCluster({ db: database, listenUrl: db.url, on, log: nothing })
    await cluster.start()
    return cluster
  }
  const a = await meet('a')
  expect(a.hasPeers()).toBe(false)
  lost.length = 0
  const b = await meet('b')
  await eventually(() => a.hasPeers() && b.hasPeers())
  // One of b's is that it began to listen.
  await eventually(() => lost.filter((name) => name === 'a').length === 1 && lost.length === 3)
  a.appended({ queueId: 1, lane: 2, position: 3 })
  await eventually(() => heard.includes(`${a.gateway} append 1:2:3`))
  await b.stop()
  await eventually(() => !a.hasPeers())
  await a.stop()
  await database.close()
})
