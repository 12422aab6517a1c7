/** What gateways tell each other: nothing while there is only one, and all that matters from the moment there are two. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { sleep } from '../src/base/index.ts'
import { heldMs } from '../src/broker/attention.ts'
import { type Cluster, createCluster } from '../src/broker/cluster.ts'
import type { Broker } from '../src/broker/index.ts'
import { connect, type Database } from '../src/store/index.ts'
import { bodies, brokerOn, receive, send } from './support/broker.ts'
import { eventually, type TestDatabase, testDatabase } from './support/postgres.ts'

let db: TestDatabase
let heard: string[]
let brokers: Broker[]
let database: Database
let clusters: Cluster[]
const waitMs = 15_000

beforeEach(async () => {
  db = await testDatabase()
  heard = []
  brokers = []
  clusters = []
  database = connect({ databaseUrl: db.url, pool: 2, prepare: true })
  await db.sql.listen('postern', (payload) => heard.push(payload))
})
afterEach(async () => {
  await Promise.all([...brokers.map((broker) => broker.stop(1000)), ...clusters.map((cluster) => cluster.stop())])
  await database.close()
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
  // For as long as it waits it says so.
  await eventually(() => said('looked').length > 0 && said('waits').length > 1)
  await send(a, 'q', 'told')
  expect(bodies(await waiting)).toEqual(['told'])
  await eventually(() => said('append').length > 0)
})

/** What one cluster is told of, and how often it may have missed something. */
type Ears = { cluster: Cluster; lost: number; appended: number[] }

async function meet(): Promise<Ears> {
  const nothing = (): void => {}
  const on = {
    appended: ({ queueId }: { queueId: number }) => void ears.appended.push(queueId),
    rung: nothing,
    queueChanged: nothing,
    keysChanged: nothing,
    subscriptionChanged: nothing,
    subscriptionsFree: nothing,
    asked: () => null,
    lost: () => void ears.lost++,
  }
  const ears: Ears = {
    cluster: createCluster({ db: database, listenUrl: db.url, on, log: nothing }),
    lost: 0,
    appended: [],
  }
  clusters.push(ears.cluster)
  await ears.cluster.start()
  return ears
}

test('gateways that meet tell each other to look again, and each does', async () => {
  const a = await meet()
  expect(a.cluster.hasPeers()).toBe(false)
  a.lost = 0
  const b = await meet()
  await eventually(() => a.cluster.hasPeers() && b.cluster.hasPeers())
  // One of b's is that it began to listen.
  await eventually(() => a.lost === 1 && b.lost === 2)
  a.cluster.appended({ queueId: 1, lane: 2, position: 3 })
  await eventually(() => heard.includes(`${a.cluster.gateway} append 1:2:3`))
  await b.cluster.stop()
  await eventually(() => !a.cluster.hasPeers())
})

test('what became ready where nobody waits is told with other words, seldom; a word that somebody waits calls it out', async () => {
  const a = await meet()
  const b = await meet()
  await eventually(() => a.cluster.hasPeers() && b.cluster.hasPeers())
  // Until it has listened for a while it hurries: it may have missed who waits.
  await tellEach(a.cluster, 1, 10)
  await sleep(heldMs)

  const before = said('append').length
  const startMs = performance.now()
  for (let n = 0; n < 50; n++) {
    a.cluster.appended({ queueId: 1, lane: 0, position: n })
    await sleep(10)
  }
  expect(said('append').length - before).toBeLessThan(3 + (performance.now() - startMs) / 250)

  // Eight queues of either kind one after the other, in less time than four heartbeats: seldom is twice for each.
  const beats = (): number => said('alive').filter((payload) => payload.startsWith(a.cluster.gateway)).length
  const beatsBefore = beats()
  for (let queueId = 2; queueId < 18; queueId++) {
    if (queueId % 2 === 0) a.cluster.appended({ queueId, lane: 0, position: 99 })
    else a.cluster.rung(queueId)
    b.cluster.concerned('waits', queueId)
    await eventually(() => b.appended.includes(queueId) || heard.includes(`${a.cluster.gateway} ring ${queueId}`))
    expect(heard).toContain(`${b.cluster.gateway} waits ${queueId}`)
  }
  expect(beats() - beatsBefore).toBeLessThan(3)

  // From now on each is told at once, and what is of no concern with it.
  a.cluster.appended({ queueId: 20, lane: 0, position: 7 })
  await tellEach(a.cluster, 2, 10)
  expect(said('append').some((payload) => payload.includes(' 2:0:0') && payload.includes(' 20:0:7'))).toBe(true)
})

/** One after the other, each when the one before was told. */
async function tellEach(cluster: Cluster, queueId: number, count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    const before = said('append').length
    cluster.appended({ queueId, lane: 0, position: n })
    await eventually(() => said('append').length > before)
  }
}

test('beside a gateway that does not say where it waits, all is told at once', async () => {
  const a = await meet()
  await sleep(heldMs)
  await db.sql.notify('postern', 'older alive')
  await eventually(() => a.cluster.hasPeers())
  await tellEach(a.cluster, 1, 10)
  expect(said('append')).toHaveLength(10)
  await db.sql.notify('postern', 'older leaving')
  await eventually(() => !a.cluster.hasPeers())
})
