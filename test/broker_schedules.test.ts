/** Schedules over several brokers: each fire once, whoever dies; what becomes of late ones; what is told when the target is gone. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import type { ScheduledMessage, ScheduleSettings, ScheduleTarget } from '../src/model/index.ts'
import { claimDue, connect, type Database, lockSchedule, recordFires } from '../src/store/index.ts'
import { ack, type Bench, bodies, brokerOn, brokersOn, receive } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

let bench: Bench
let a: Broker
let b: Broker

beforeAll(async () => {
  bench = await brokersOn(3)
  ;[a, b] = bench.brokers as [Broker, Broker]
})
/** So that no test fires into another. */
afterEach(async () => void (await bench.db.sql`delete from postern.schedules`))
afterAll(() => bench.stop())

const payload: ScheduledMessage = {
  ...{ body: Buffer.from('tick'), contentType: 'text/plain', headers: null, key: null, priority: 5 },
  ...{ delayMs: null, ttlMs: null },
}
type More = Partial<Omit<ScheduleSettings, 'message' | 'target'>> & Partial<ScheduledMessage>
const anyone = () => {}

async function put(name: string, cron: string, target: ScheduleTarget, more: More = {}) {
  const { timezone = 'UTC', misfire = 'skip', paused = null, ...message } = more
  const settings = { cron, timezone, target, misfire, paused, message: { ...payload, ...message } }
  return (await a.admin.putSchedule(name, settings, anyone)).schedule
}

/** As if it had been due then and no gateway had run. */
const overdue = (name: string, ms: number) =>
  bench.db
    .sql`update postern.schedules set next_fire_at = date_trunc('milliseconds', now()) - ${ms} * interval '1 ms' where name = ${name}`

/** The fire times of what has arrived. */
async function arrived(queue: string): Promise<string[]> {
  const page = await b.admin.browseMessages(queue, 'ready', { limit: 1000, cursor: null })
  return page.data.map(({ headers }) => String(headers['postern-fire-time']))
}

const nextMs = async (name: string) => (await b.admin.getSchedule(name)).nextFireAt?.getTime() ?? null
const seconds = (times: readonly string[]) => times.map((time) => Date.parse(time) / 1000)

/** One after the other, a second apart each. */
function expectEverySecond(times: readonly string[]): void {
  const [first = 0] = seconds(times)
  expect(seconds(times).map((each) => Math.round((each - first) * 1000))).toEqual(times.map((_, n) => n * 1000))
}

describe('a schedule', () => {
  test('fires once each time, with three gateways', async () => {
    await a.admin.putQueue('each', { dedupWindowMs: 0 })
    await put('each', '@every 1s', { queue: 'each' })
    await put('each6', '* * * * * *', { queue: 'each' }, { headers: { tenant: 'acme' }, priority: 7 })
    const times = await eventually(async () => {
      const page = await b.admin.browseMessages('each', 'ready', { limit: 1000, cursor: null })
      const of = (name: string) => page.data.filter(({ headers }) => headers['postern-schedule'] === name)
      return of('each').length >= 4 && of('each6').length >= 4 && { every: of('each'), cron: of('each6') }
    })
    expectEverySecond(times.every.map(({ headers }) => String(headers['postern-fire-time'])))
    expectEverySecond(times.cron.map(({ headers }) => String(headers['postern-fire-time'])))
    expect(times.cron[0]).toMatchObject({ priority: 7, headers: { tenant: 'acme' }, contentType: 'text/plain' })
    const { lastFire, nextFires } = await a.admin.getSchedule('each')
    expect(lastFire).toMatchObject({ messageId: expect.stringMatching(/^msg_/), error: null })
    expect(nextFires).toHaveLength(5)
  })

  test('wakes a receiver who waits', async () => {
    await a.admin.putQueue('wakes', {})
    const waiting = receive(b, 'wakes', 1, { waitMs: 10_000 })
    await put('wakes', '@every 1s', { queue: 'wakes' })
    const [got] = await waiting
    expect(got?.body.toString()).toBe('tick')
    const lateMs = (got?.enqueuedAt.getTime() ?? 0) - Date.parse(got?.headers['postern-fire-time'] ?? '')
    expect(lateMs).toBeGreaterThanOrEqual(0)
  })

  test('goes to all that a topic matches, and follows the options of its message', async () => {
    await a.admin.putTopic('clock', {})
    await a.admin.putQueue('hears', {})
    await a.admin.putQueue('delays', { order: 'keyed' })
    await a.admin.putBinding('clock', 'hears', { queue: 'hears', pattern: 'tick.*', filter: null })
    await put('topical', '@every 1h', { topic: 'clock', routingKey: 'tick.hour' })
    const { id } = await b.admin.runSchedule('topical', anyone)
    const [heard] = await receive(a, 'hears', 1, { waitMs: 5000 })
    expect(heard).toMatchObject({
      id,
      headers: { 'postern-topic': 'clock', 'postern-routing-key': 'tick.hour', 'postern-schedule': 'topical' },
    })
    await put('delayed', '@every 1h', { queue: 'delays' }, { delayMs: 3_600_000, key: 'k' })
    await b.admin.runSchedule('delayed', anyone)
    await eventually(async () => (await a.admin.getQueue('delays')).counts.delayed === 1)
  })

  test('that is put again as it was keeps its step, and another does not', async () => {
    await a.admin.putQueue('steps', {})
    await put('steps', '@every 1h', { queue: 'steps' })
    const before = await nextMs('steps')
    await put('steps', '@every 1h', { queue: 'steps' }, { body: Buffer.from('another') })
    expect(await nextMs('steps')).toBe(before)
    await put('steps', '@every 2h', { queue: 'steps' })
    expect(await nextMs('steps')).toBeGreaterThan(before ?? 0)
  })

  test('does not fire while it is paused, keeps that when it is put, and makes up for nothing', async () => {
    await a.admin.putQueue('pauses', {})
    await put('pauses', '@every 1s', { queue: 'pauses' })
    const paused = await b.admin.pauseSchedule('pauses', anyone)
    expect(paused).toMatchObject({ paused: true, nextFireAt: null, nextFires: [] })
    expect(await put('pauses', '@every 1s', { queue: 'pauses' })).toMatchObject({ paused: true, nextFireAt: null })
    const already = (await arrived('pauses')).length
    await put('marker', '@every 1s', { queue: 'pauses' }, { key: 'marker' })
    await eventually(async () => (await a.admin.getSchedule('marker')).lastFire)
    const { id } = await b.admin.runSchedule('pauses', anyone)
    expect((await b.admin.getMessage('pauses', id)).body.toString()).toBe('tick')
    expect((await b.admin.getSchedule('pauses')).lastFire?.messageId).toBe(id)
    await a.admin.deleteSchedule('marker', anyone)
    const markers = (await a.admin.browseMessages('pauses', 'ready', { limit: 1000, cursor: null })).data
    expect(markers.filter(({ key }) => key === null)).toHaveLength(already + 1)
    const resumed = await a.admin.resumeSchedule('pauses', anyone)
    expect(resumed.paused).toBe(false)
    expect((await a.admin.resumeSchedule('pauses', anyone)).nextFireAt).toEqual(resumed.nextFireAt)
    await eventually(async () => (await arrived('pauses')).includes(String(resumed.nextFireAt?.toISOString())))
  })

  test('whose target is gone says so and goes on; it finds one that is made anew', async () => {
    await a.admin.putQueue('gone', {})
    await put('gone', '@every 1s', { queue: 'gone' })
    await a.admin.deleteQueue('gone', true)
    const failed = await eventually(async () => {
      const found = await a.admin.getSchedule('gone')
      return found.lastFire?.error ? found : null
    })
    expect(failed.lastFire).toMatchObject({ messageId: null, error: expect.stringContaining('no queue gone') })
    expect(failed.nextFireAt).not.toBeNull()
    await expect(a.admin.runSchedule('gone', anyone)).rejects.toMatchObject({ code: 'queue_not_found' })
    await a.admin.putQueue('gone', {})
    await eventually(async () => (await arrived('gone')).length > 0)
  })

  test('to a full queue, and to a topic with one, fails alone', async () => {
    await a.admin.putQueue('full', { maxMessages: 1 })
    await a.admin.putQueue('free', {})
    await a.admin.putTopic('fills', {})
    await a.admin.putBinding('fills', 'full', { queue: 'full', pattern: '#', filter: null })
    await a.admin.putBinding('fills', 'free', { queue: 'free', pattern: '#', filter: null })
    await put('full', '@every 1h', { queue: 'full' })
    await put('fills', '@every 1h', { topic: 'fills', routingKey: '' })
    await put('free', '@every 1h', { queue: 'free' })
    // And others on their way with each of these.
    await a.admin.putTopic('fine', {})
    await a.admin.putBinding('fine', 'free', { queue: 'free', pattern: '#', filter: null })
    await put('fine', '@every 1h', { topic: 'fine', routingKey: '' })
    await a.admin.runSchedule('full', anyone)
    // Due together, so that one gateway fires them in one transaction.
    await bench.db.sql`update postern.schedules set next_fire_at = now()`
    await eventually(async () => (await a.admin.getSchedule('free')).lastFire)
    await eventually(async () => (await a.admin.getSchedule('full')).lastFire?.error)
    await eventually(async () => (await a.admin.getSchedule('fills')).lastFire?.error)
    await eventually(async () => (await a.admin.getSchedule('fine')).lastFire)
    expect(await arrived('free')).toHaveLength(2)
    expect(await arrived('full')).toHaveLength(1)
    for (const name of ['full', 'fills'])
      await expect(b.admin.runSchedule(name, anyone)).rejects.toMatchObject({ code: 'queue_full' })
  })
})

describe('many that are due at once', () => {
  test('fire in a few transactions, each once, in their order', async () => {
    const { sql } = bench.db
    for (const [name, settings] of [
      ['many', {}],
      ['many-keyed', { order: 'keyed' }],
      ['many-bounded', { maxMessages: 10_000 }],
    ] as const)
      await a.admin.putQueue(name, settings)
    await sql`insert into postern.schedules (name, cron, timezone, queue, content_type, key, body, priority, misfire, paused, next_fire_at)
      select 'many' || n, '@every 1h', 'UTC', (array['many', 'many-keyed', 'many-bounded'])[n % 3 + 1], 'text/plain', 'k' || n % 7, '', 5, 'skip', false,
        now() - interval '1 s' + n * interval '1 ms' from generate_series(0, 899) n`
    for (const queue of ['many', 'many-keyed', 'many-bounded'])
      await eventually(async () => (await a.admin.getQueue(queue)).counts.ready === 300)
    const [{ n } = { n: 0 }] = await sql<{ n: number }[]>`
      select count(distinct xmin::text)::int as n from postern.schedules where last_message_id is not null`
    expect(n).toBeGreaterThan(0)
    // Of three gateways, each with what the others have left.
    expect(n).toBeLessThan(10)
    expect(seconds(await arrived('many'))).toEqual(seconds(await arrived('many')).sort((x, y) => x - y))
    const rates = await Promise.all(bench.brokers.map((broker) => broker.admin.queueStats('many')))
    expect(Math.max(...rates.map(({ inRate }) => inRate))).toBeLessThanOrEqual(5)
  })

  test('go on without one whose queue somebody holds, and that fires once when it is let go', async () => {
    const { sql } = bench.db
    await a.admin.putQueue('held', {})
    await a.admin.putQueue('others', {})
    let release = () => {}
    const holding = sql.begin(async (tx) => {
      await tx`select 1 from postern.queues where name = 'held' for update`
      await new Promise<void>((resolve) => {
        release = resolve
      })
    })
    await put('held', '@every 1h', { queue: 'held' })
    for (let n = 0; n < 30; n++) await put(`other${n}`, '@every 1h', { queue: 'others' })
    // The one that cannot fire is the earliest.
    await sql`update postern.schedules set next_fire_at = now() - case name when 'held' then 2 else 1 end * interval '1 s'`
    await eventually(async () => (await arrived('others')).length === 30, 20_000)
    expect((await a.admin.getSchedule('held')).lastFire).toBeNull()
    release()
    await holding
    await eventually(async () => (await arrived('held')).length > 0)
    await eventually(async () => (await a.admin.getSchedule('held')).lastFire)
    expect([(await arrived('held')).length, (await arrived('others')).length]).toEqual([1, 30])
  }, 40_000)
})

describe('fires that nobody was there for', () => {
  test('skip forgets those that are too old', async () => {
    await a.admin.putQueue('skips', {})
    await put('skips', '0 0 1 1 *', { queue: 'skips' })
    const before = await nextMs('skips')
    await overdue('skips', 90_000)
    await eventually(async () => (await nextMs('skips')) === before)
    expect(await arrived('skips')).toEqual([])
    expect((await a.admin.getSchedule('skips')).lastFire).toBeNull()
  })

  test('once sends one for all', async () => {
    await a.admin.putQueue('onces', {})
    await put('onces', '@every 10m', { queue: 'onces' }, { misfire: 'once' })
    await overdue('onces', 24 * 3_600_000 + 300_000)
    await eventually(async () => (await arrived('onces')).length > 0)
    const { nextFireAt, lastFire } = await a.admin.getSchedule('onces')
    expect(await arrived('onces')).toEqual([lastFire?.at.toISOString()])
    const stepMs = (nextFireAt?.getTime() ?? 0) - (lastFire?.at.getTime() ?? 0)
    expect(stepMs % 600_000).toBe(0)
    expect(stepMs).toBe(24 * 3_600_000 + 600_000)
  })

  test('once sends one for those older than a minute, then each of the last minute', async () => {
    await a.admin.putQueue('onces-then', {})
    await put('onces-then', '@every 20s', { queue: 'onces-then' }, { misfire: 'once' })
    await overdue('onces-then', 3_600_000 + 5_000)
    const times = await eventually(async () => {
      const some = seconds(await arrived('onces-then'))
      return some.length >= 4 && some
    })
    const [first = 0] = times
    expect(times.slice(0, 4).map((each) => Math.round(each - first))).toEqual([0, 3560, 3580, 3600])
  })

  test('one that is late by less than a minute happens, each of them once', async () => {
    await a.admin.putQueue('lates', {})
    await put('lates', '@every 5s', { queue: 'lates' })
    await overdue('lates', 48_000)
    const times = await eventually(async () => {
      const some = await arrived('lates')
      return some.length >= 10 && some
    })
    expect(times.slice(0, 10)).toEqual([...new Set(times)].slice(0, 10))
    const [first = 0] = seconds(times)
    expect(seconds(times).map((each) => Math.round(each - first))).toEqual(times.map((_, n) => n * 5))
  })
})

describe('when a gateway ends', () => {
  test('the others go on, without a gap or a double', async () => {
    await a.admin.putQueue('ends', {})
    const others = [brokerOn(bench.db.url), brokerOn(bench.db.url)]
    await Promise.all(others.map((other) => other.start()))
    await put('ends', '@every 1s', { queue: 'ends' })
    for (const [at, other] of others.entries()) {
      await eventually(async () => (await arrived('ends')).length > at)
      await other.stop(0)
    }
    const times = await eventually(async () => {
      const some = await arrived('ends')
      return some.length >= 4 && some
    })
    expectEverySecond(times)
  })

  test('between the claim and the send, another fires in its place, once', async () => {
    const { sql } = bench.db
    await a.admin.putQueue('dies', {})
    await put('dies', '@every 1h', { queue: 'dies' })
    let release = () => {}
    const held = sql.begin(async (tx) => {
      await tx`select 1 from postern.queues where name = 'dies' for update`
      await new Promise<void>((resolve) => {
        release = resolve
      })
    })
    await overdue('dies', 0)
    // Whoever has claimed it now waits for the queue, and dies there.
    const [victim] = await eventually(async () => {
      const found = await sql<{ pid: number }[]>`
        select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '/* send%'`
      return found.length > 0 && found
    })
    await sql`select pg_terminate_backend(${victim?.pid ?? 0})`
    release()
    await held
    await eventually(async () => (await arrived('dies')).length > 0)
    await eventually(async () => (await a.admin.getSchedule('dies')).lastFire)
    expect(await arrived('dies')).toHaveLength(1)
    expect((await nextMs('dies')) ?? 0).toBeGreaterThan(Date.now() + 3_000_000)
  })
})

describe('the claim', () => {
  let idle: Bench
  let one: Database
  let two: Database
  beforeAll(async () => {
    idle = await brokersOn(0)
    const connected = () => connect({ databaseUrl: idle.db.url, pool: 2, prepare: true })
    ;[one, two] = [connected(), connected()]
    await idle.db
      .sql`insert into postern.schedules (name, cron, timezone, queue, content_type, body, priority, misfire, paused, next_fire_at)
      values ('race', '@every 1h', 'UTC', 'q', 'text/plain', '', 5, 'skip', false, now())`
  })
  afterAll(async () => {
    await Promise.all([one.close(), two.close()])
    await idle.stop()
  })

  const claims = () => two.together(async (other) => (await claimDue(other, 1e9, 10)).due)

  test('is one gateway’s: another passes over it, and after the commit finds it due no more', async () => {
    await one.together(async (inside) => {
      const [mine] = (await claimDue(inside, 1e9, 10)).due
      expect(mine?.schedule.name).toBe('race')
      expect(await claims()).toEqual([])
      await recordFires(inside, [{ name: 'race', nextMs: Date.now() + 3_600_000, fire: null }])
    })
    expect(await claims()).toEqual([])
    // The twin: without the lock both would have fired.
    await idle.db.sql`update postern.schedules set next_fire_at = now()`
    const unlocked = (db: Database) => db.calm('select name from postern.schedules where next_fire_at <= now()', [])
    expect(await Promise.all([unlocked(one), unlocked(two)])).toEqual([[{ name: 'race' }], [{ name: 'race' }]])
  })

  test('and all that goes with it is undone when the transaction does not end', async () => {
    await idle.db.sql`update postern.schedules set next_fire_at = now()`
    const dies = one.together(async (inside) => {
      const [mine] = (await claimDue(inside, 1e9, 10)).due
      await recordFires(inside, [{ name: 'race', nextMs: null, fire: { atMs: 0, messageId: 'msg_x', error: null } }])
      throw new Error(`${mine?.schedule.name} dies`)
    })
    await expect(dies).rejects.toThrow('race dies')
    const [again] = await claims()
    expect(again?.schedule).toMatchObject({ name: 'race', lastFire: null })
    expect(await two.together((other) => lockSchedule(other, 'none'))).toBeNull()
  })
})

test('what was sent is acknowledged like any other message', async () => {
  await a.admin.putQueue('acks', {})
  await put('acks', '@every 1h', { queue: 'acks' })
  await a.admin.runSchedule('acks', anyone)
  const got = await receive(b, 'acks', 1, { waitMs: 5000 })
  expect(bodies(got)).toEqual(['tick'])
  expect(await ack(b, ...got)).toEqual(['acked'])
})
