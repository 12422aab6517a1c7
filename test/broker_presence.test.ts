/** Two versions side by side: what an older gateway would get wrong is not stored while one is there. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { defaultSubscription } from '../src/model/index.ts'
import { createPush, newSecret } from '../src/push/index.ts'
import { ack, type Bench, bodies, brokerOn, brokersOn, message, receive, send } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { startSink } from './support/sink.ts'

let bench: Bench
let a: Broker
let b: Broker

beforeEach(async () => {
  bench = await brokersOn(2)
  ;[a, b] = bench.brokers as [Broker, Broker]
  await a.admin.putQueue('q', { order: 'keyed' })
  await send(a, 'q', ...['1', '2', '3', '4', '5', '6', '7', '8'].map((body) => message(body, { key: 'k' })))
})
afterEach(() => bench.stop())

/** What one receive gets; done at once. */
async function taken(broker: Broker, max = 2): Promise<string[]> {
  const got = await receive(broker, 'q', max, { waitMs: 5000 })
  await ack(broker, ...got)
  return bodies(got)
}

/** As a gateway of before runs makes it by its heartbeat. */
const oldRow = (id: string, ageS = 0) =>
  bench.db
    .sql`insert into postern.gateways (id, alive_until, leaving) values (${id}, now() + 5 * interval '1 s' - ${ageS} * interval '1 s', false)`
const rows = () =>
  bench.db.sql<{ id: string; protocol: number; leaving: boolean }[]>`
    select id, protocol, leaving from postern.gateways order by protocol, id`
const says = (text: string) => bench.db.sql`select pg_notify('postern', ${text})`

test('runs are leased while every gateway knows them, and not while one does not', async () => {
  expect(await taken(a)).toEqual(['1', '2'])
  await oldRow('older')
  expect(await taken(a)).toEqual(['3'])
  expect(await taken(b)).toEqual(['4'])
  await bench.db.sql`delete from postern.gateways where id = 'older'`
  expect(await taken(b)).toEqual(['5', '6'])
})

test('one that has not signed off may only be frozen: it counts for an hour', async () => {
  await oldRow('frozen', 3000)
  expect(await taken(a)).toEqual(['1'])
  await bench.db.sql`update postern.gateways set alive_until = now() - interval '61 minutes' where id = 'frozen'`
  await eventually(async () => (await rows()).every(({ id }) => id !== 'frozen'))
  expect(await taken(a)).toEqual(['2', '3'])
})

test('one that makes no row of its own is entered by whoever hears it, until it says that it leaves', async () => {
  await says('silent alive')
  await eventually(async () => (await rows())[0]?.id === 'silent')
  expect(await rows()).toMatchObject([{ protocol: 0, leaving: true }, { protocol: 2 }, { protocol: 2 }])
  expect(await taken(a)).toEqual(['1'])
  await says('silent leaving')
  await eventually(async () => (await rows()).length === 2)
  expect(await taken(a)).toEqual(['2', '3'])
})

test('a word that was said before it left and comes after it does not bring it back', async () => {
  await says('silent alive')
  await eventually(async () => (await rows()).length === 3)
  await says('silent leaving')
  await says('silent free')
  await eventually(async () => (await rows()).length === 2)
  // Longer than a beat: in each, whoever is counted as there would be entered again.
  await expect(eventually(async () => (await rows()).length === 3, 2500)).rejects.toThrow('Did not happen')
})

test('a gateway that starts knows who is there before it serves', async () => {
  // As an older one does: it answers the first word of whoever it does not know.
  const heard = new Set<string>()
  const listening = await bench.db.sql.listen('postern', (payload) => {
    const [from = '', word] = payload.split(' ')
    if (from === 'silent' || heard.has(from) || word !== 'alive') return
    heard.add(from)
    // A query of the driver does nothing until somebody waits for it.
    says('silent alive').catch(() => {})
  })
  const late = brokerOn(bench.db.url)
  bench.brokers.push(late)
  await late.start()
  expect((await rows())[0]?.id).toBe('silent')
  await listening.unlisten()
})

test('a row that an older gateway keeps itself is not touched by those who hear it', async () => {
  await oldRow('older', 100)
  const until = () => bench.db.sql`select alive_until, leaving from postern.gateways where id = 'older'`
  const before = await until()
  await says('older alive')
  await says('another alive')
  await eventually(async () => (await rows()).some(({ id }) => id === 'another'))
  expect(await until()).toEqual(before)
})

test('a gateway counts as there from its start to its stop, and one without webhooks has no share of them', async () => {
  expect(await rows()).toMatchObject([
    { protocol: 2, leaving: true },
    { protocol: 2, leaving: true },
  ])
  const sink = await startSink()
  const push = createPush({ broker: b, allowPrivate: true, version: 'test', log: () => {} })
  push.start()
  const settings = { ...defaultSubscription, url: sink.url }
  for (const name of ['w1', 'w2', 'w3', 'w4']) {
    await a.admin.putQueue(name, {})
    await a.admin.createSubscription({ queue: name }, settings, newSecret())
    await send(a, name, name)
  }
  await eventually(() => new Set(sink.bodies()).size === 4)
  expect((await rows()).map(({ leaving }) => leaving).sort()).toEqual([false, true])
  await push.stop(300)
  const alive = async () => (await bench.db.sql`select 1 from postern.gateways where alive_until > now()`).length
  // It still serves.
  expect(await alive()).toBe(2)
  await b.stop(1000)
  expect(await alive()).toBe(1)
  // A late word of it does not make it an older one.
  expect((await rows()).map(({ protocol }) => protocol)).toEqual([2, 2])
  await sink.close()
  bench.brokers.pop()
})

test('a gateway whose row was lost makes it again, as what it is', async () => {
  await bench.db.sql`delete from postern.gateways`
  await eventually(async () => {
    const found = await rows()
    return found.length === 2 && found.every(({ protocol }) => protocol === 2)
  })
  expect(await taken(a)).toEqual(['1', '2'])
})

test('the diagnosis names who is behind', async () => {
  await oldRow('older')
  await oldRow('killed', 600)
  const found = (await a.admin.diagnosis.all()).filter(({ code }) => code === 'gateways_behind')
  expect(found.map(({ detail }) => detail.split(' of a version')[0])).toEqual([
    'The gateway older is',
    expect.stringMatching(/^The gateway killed \(last alive .*, not signed off\) was$/),
  ])
})
