/** What is wrong is named: on a real Postgres that something is wrong with, and by pure judgement where that would take too long. */
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { databaseProblems } from '../src/broker/index.ts'
import {
  judgeBlocked,
  judgeClock,
  judgeLate,
  judgePools,
  judgePrepared,
  judgeReplicas,
  judgeServer,
  judgeSessions,
  judgeSlots,
  judgeTables,
  type Problem,
  problemCodes,
} from '../src/model/index.ts'
import * as store from '../src/store/index.ts'
import { refusal, rootKey, type TestApp, testApp } from './support/app.ts'
import { brokerOn, message } from './support/broker.ts'
import { eventually, type TestDatabase, testDatabase } from './support/postgres.ts'

const asRoot = { headers: { authorization: `Bearer ${rootKey}` } }
const now = new Date('2026-11-21T12:00:00Z')
const ago = (ms: number) => new Date(now.getTime() - ms)
const codes = (found: readonly { code: string }[]) => found.map(({ code }) => code)

let app: TestApp
let database: TestDatabase
beforeAll(async () => {
  app = await testApp({ rootKey, open: false })
  database = app.database
})
afterAll(() => app.stop())

type Ready = { status: string | number; code?: string; detail?: string; problems?: Record<string, string | null>[] }
async function ready(query = '?verbose'): Promise<Ready & { http: number }> {
  const answer = await app.request(`/readyz${query}`, asRoot)
  return { ...((await answer.json()) as Ready), http: answer.status }
}

describe('readiness', () => {
  test('a database that lacks a migration is not ready, though it answers', async () => {
    const before =
      await database.sql`delete from postern.migrations where tag = (select max(tag) from postern.migrations) returning *`
    const tag = before[0]?.tag as string
    expect((await ready('')).http).toBe(503)
    const found = await ready()
    expect(found).toMatchObject({ http: 503, status: 503, code: 'unavailable' })
    expect(found.problems).toEqual([
      {
        code: 'migrations_missing',
        detail: `The database lacks 1 migration: ${tag}.`,
        since: null,
        advice: expect.stringContaining('postern migrate'),
      },
    ])
    await database.sql`insert into postern.migrations ${database.sql(before)}`
    expect((await ready('')).http).toBe(200)
  })

  test('nor is one that was never migrated', async () => {
    await database.sql`alter table postern.migrations rename to elsewhere`
    expect(codes((await ready()).problems as { code: string }[])).toEqual(['migrations_missing'])
    await database.sql`alter table postern.elsewhere rename to migrations`
  })

  test('nor one that is gone, and that is said in time', async () => {
    const sick = await testApp({ rootKey, open: false })
    const server = postgres(inject('postgresUrl'), { max: 1, onnotice: () => {} })
    const name = new URL(sick.database.url).pathname.slice(1)
    await server.unsafe(`alter database ${name} allow_connections false`)
    await server`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${name}`
    const answer = await eventually(async () => {
      const found = await sick.request('/readyz?verbose', asRoot)
      return found.status === 503 ? found : null
    })
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(((await answer.clone().json()) as Ready).problems).toMatchObject([{ code: 'database_unreachable' }])
    expect(await refusal(answer)).toMatchObject({ code: 'unavailable' })
    await server.unsafe(`alter database ${name} allow_connections true`)
    await eventually(async () => (await sick.request('/readyz')).status === 200)
    await server.end()
    await sick.stop()
  }, 30_000)

  test('nor a replica', async () => {
    const calm = async (text: string) => (text.includes('standing') ? [{ there: true, read_only: true }] : [])
    const replica = { calm } as unknown as store.Database
    expect(codes(await databaseProblems(replica, true))).toEqual(['database_read_only', 'migrations_missing'])
  })

  test('who holds the locks that statements wait for is named, and a prepared transaction too', async () => {
    await app.broker.admin.putQueue('locked', {})
    const locker = postgres(database.url, { max: 1, connection: { application_name: 'repair-tool' } })
    let sending: Promise<unknown> = Promise.resolve()
    await locker.begin(async (tx) => {
      await tx`lock table postern.messages in access exclusive mode`
      const [{ pid } = { pid: 0 }] = await tx<{ pid: number }[]>`select pg_backend_pid() as pid`
      sending = app.broker.send('locked', [message('x')])
      const found = await eventually(async () => {
        const { http, problems = [] } = await ready()
        expect(http).toBe(200)
        return problems.find(({ code }) => code === 'statements_blocked')
      })
      expect(found.advice).toContain(`pg_terminate_backend(${pid})`)
      expect(found.detail).toMatch(
        new RegExp(`^The session ${pid} \\(role \\w+, application repair-tool, idle in transaction\\)`),
      )
      expect(found.detail).toMatch(
        /with a transaction open since \S+Z, last query begun \S+Z: \d+ statements? of Postern waits?/,
      )
    })
    await sending
    await locker.end()
    expect(judgeBlocked([{ session: null, waiting: 2, waitingSince: now }])[0]?.detail).toBe(
      `A prepared transaction (select * from pg_prepared_xacts) holds locks: 2 statements of Postern wait for it, since ${now.toISOString()}.`,
    )
  }, 20_000)

  test('a statement that hangs is cut off and named', async () => {
    const locker = postgres(database.url, { max: 1 })
    await locker.begin(async (tx) => {
      await tx`lock table postern.scheduled in access exclusive mode`
      const found = await ready()
      expect(found.http).toBe(200)
      expect(found.problems).toContainEqual(expect.objectContaining({ code: 'diagnosis_incomplete' }))
    })
    await locker.end()
    expect(codes((await ready()).problems as { code: string }[])).not.toContain('diagnosis_incomplete')
  }, 30_000)
})

describe('what does not make it unready', () => {
  const problemsNow = async () => (await ready()).problems ?? []
  const named = async (code: string) => {
    const found = (await problemsNow()).find((each) => each.code === code)
    expect(found?.advice?.length, code).toBeGreaterThan(10)
    return found
  }

  test('a Postgres that may lose what it has committed, as that of the tests', async () => {
    const found = await ready()
    expect([found.http, found.status]).toEqual([200, 'ready'])
    expect(codes(found.problems as { code: string }[]).filter((code) => code !== 'connections_exhausted')).toEqual([
      ...['not_durable', 'not_durable', 'not_durable'],
    ])
  })

  test('upkeep that does not run', async () => {
    const still = await testDatabase()
    const broker = brokerOn(still.url, 3, { upkeep: false })
    await broker.start()
    await broker.admin.putQueue('q', { delayMs: 60_000 })
    expect(codes(await broker.admin.diagnosis.all())).not.toContain('upkeep_missing')
    await still.sql`insert into postern.scheduled (due_at, position, id, enqueued_at, expires_at, queue_id, lane, content_type)
      values (now() - interval '20 seconds', 1, 1, now(), now(), 1, 1, '')`
    await still.sql`insert into postern.leases (expires_at, token, queue_id, lane, positions) values (now() - interval '1 minute', 1, 1, 1, '{1}')`
    const found = (await broker.admin.diagnosis.all()).filter(({ code }) => code === 'upkeep_missing')
    expect(found).toHaveLength(2)
    expect(found[0]?.since?.getTime()).toBeGreaterThan(found[1]?.since?.getTime() ?? Number.POSITIVE_INFINITY)
    await broker.stop(1000)
    await still.drop()
  })

  test('a webhook for which nobody delivers', async () => {
    await app.request('/v1/queues/hooked', { ...asRoot, method: 'PUT' })
    const json = { queue: 'hooked', url: 'http://127.0.0.1:9/' }
    await app.request('/v1/subscriptions', { ...asRoot, method: 'POST', json })
    expect(codes((await problemsNow()) as { code: string }[])).not.toContain('subscriptions_unserved')
    await database.sql`update postern.subscriptions set updated_at = now() - interval '1 minute'`
    expect((await named('subscriptions_unserved'))?.detail).toMatch(
      /^No gateway delivers for 1 enabled webhooks, such as sub_/,
    )
    await database.sql`delete from postern.subscriptions`
  })

  test('LISTEN that is off, or down', async () => {
    const off = brokerOn(database.url, 3, { upkeep: false, prepare: false })
    const down = brokerOn(database.url, 3, { upkeep: false, listenUrl: 'postgres://127.0.0.1:9/none' })
    await Promise.all([off.start(), down.start()])
    expect(codes(await off.admin.diagnosis.all())).toContain('listen_off')
    expect(codes(await down.admin.diagnosis.all())).toContain('listen_down')
    await Promise.all([off.stop(1000), down.stop(1000)])
  }, 20_000)
})

describe('sessions', () => {
  test('a transaction that holds back vacuum is found with its age, and a mere reader is not', async () => {
    const db = store.connect({ databaseUrl: database.url, pool: 3, prepare: true })
    const holder = postgres(database.url, { max: 1, connection: { application_name: 'nightly report' } })
    await holder.begin(async (tx) => {
      const [own] = await tx`select pg_backend_pid() as pid, pg_current_xact_id()`
      const sessions = await store.diagnoseSessions(db)
      const mine = sessions.find(({ pid }) => pid === own?.pid)
      expect(mine).toMatchObject({
        application: 'nightly report',
        state: 'idle in transaction',
        age: expect.any(Number),
      })
      const [fact] = sessions
      if (!fact) throw new Error('no session')
      const later = new Date(fact.transactionAt.getTime() + 61_000)
      const named = judgeSessions([mine ?? fact], later)
      expect(named).toMatchObject([{ code: 'vacuum_held_by_transaction', since: mine?.transactionAt }])
      expect(named[0]?.detail).toContain(`The session ${own?.pid} (role`)
      expect(judgeSessions(sessions, fact.transactionAt)).toEqual([])
    })
    const left = await store.diagnoseSessions(db)
    expect(left.filter(({ application }) => application === 'nightly report')).toEqual([])
    await holder.end()
    await db.close()
  })

  test('a role that may not see the sessions of others says so, looks at the rest, and need not own the schema', async () => {
    const role = `watcher_${Math.trunc(performance.now())}`
    await database.sql.unsafe(`create role ${role} login password 'watch';
      grant usage on schema postern to ${role}; grant select on all tables in schema postern to ${role}`)
    const url = new URL(database.url)
    url.username = role
    url.password = 'watch'
    const db = store.connect({ databaseUrl: url.href, pool: 3, prepare: true })
    const found = await databaseProblems(db, true)
    expect(codes(found)).toContain('privileges_missing')
    expect(codes(found)).not.toContain('diagnosis_incomplete')
    expect(found.find(({ code }) => code === 'privileges_missing')?.detail).toContain(`The role ${role} `)
    // A gateway starts with it, for there is nothing to migrate.
    expect(await store.migrate(url.href)).toBe(0)
    await db.close()
    await database.sql.unsafe(`drop owned by ${role}; drop role ${role}`)
  })
})

test('a pool is full as long as somebody waits for a connection', async () => {
  const db = store.connect({ databaseUrl: database.url, pool: 3, prepare: true })
  const locker = postgres(database.url, { max: 1 })
  let waiting: Promise<unknown> = Promise.resolve()
  await locker.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(77)`
    const size = db.load()[0]?.size ?? 0
    waiting = Promise.all(
      Array.from({ length: size + 1 }, () => db.hot('/* wait */ select pg_advisory_xact_lock_shared(77)', [])),
    )
    const full = await eventually(() => db.load().find(({ fullMs }) => fullMs > 0))
    expect(full).toMatchObject({ name: 'messages', size, pending: size + 1 })
    expect(judgePools([{ ...full, fullMs: 1001 }])).toMatchObject([{ code: 'pool_exhausted' }])
    expect(judgePools([{ ...full, fullMs: 999 }])).toEqual([])
  })
  await waiting
  await eventually(() => db.load().every(({ fullMs, pending }) => fullMs === 0 && pending === 0))
  await locker.end()
  await db.close()
})

describe('judgement', () => {
  const one = (found: readonly Problem[]) => found.map(({ code, detail }) => `${code}: ${detail}`)

  test('a replication slot is named when nobody reads from it, or it is far behind', async () => {
    const slot = { name: 's', active: true, age: 10, walBytes: 5e9 }
    expect(judgeSlots([slot, { ...slot, active: false, age: null, walBytes: 1 }])).toEqual([])
    expect(codes(judgeSlots([{ ...slot, age: 2e6 }]))).toEqual(['vacuum_held_by_slot'])
    expect(one(judgeSlots([{ ...slot, active: false }]))).toEqual([
      'vacuum_held_by_slot: The replication slot s (nobody reads from it) holds back vacuum, 10 transactions back.',
      'wal_kept_by_slot: The replication slot s (nobody reads from it) keeps 4.7 GB of WAL.',
    ])
    // To be pasted as it stands, whatever the slot is called.
    expect(judgeSlots([{ ...slot, name: "it's $&", active: false }])[0]?.advice).toMatch(
      /drop_replication_slot\('it''s \$&'\)/,
    )
    const name = `slot_${Math.trunc(performance.now())}`
    const db = store.connect({ databaseUrl: database.url, pool: 3, prepare: true })
    await database.sql`select pg_create_physical_replication_slot(${name}, true)`
    expect(await store.diagnoseSlots(db)).toContainEqual(expect.objectContaining({ name, active: false, age: null }))
    await database.sql`select pg_drop_replication_slot(${name})`
    await db.close()
  })

  test('prepared transactions and replicas', () => {
    const prepared = { name: 'tx-1', owner: 'shop', preparedAt: ago(61_000), age: 3 }
    expect(judgePrepared([prepared, { ...prepared, preparedAt: ago(59_000) }], now)).toMatchObject([
      {
        code: 'vacuum_held_by_prepared_transaction',
        since: ago(61_000),
        detail: expect.stringContaining('tx-1 of shop'),
      },
    ])
    const replica = { pid: 7, application: 'standby', since: now, age: 1e6 + 1 }
    expect(codes(judgeReplicas([replica, { ...replica, age: 5 }]))).toEqual(['vacuum_held_by_replica'])
  })

  test('tables with far more dead rows than live ones', () => {
    const table = { name: 'messages', live: 1000, dead: 3e5, bytes: 2 * 1024 ** 3, vacuumedAt: null }
    expect(one(judgeTables([table]))).toEqual([
      'bloat: messages has 300000 dead rows and 1000 live ones in 2 GB, last vacuumed never.',
    ])
    expect(
      judgeTables([
        { ...table, live: 2e5 },
        { ...table, dead: 1e5, live: 0 },
      ]),
    ).toEqual([])
  })

  test('the server, the clock, and what is late', () => {
    const server = {
      ...{ version: 180_004, unsafe: [], unvacuumed: [], connections: 10, maxConnections: 97, role: 'r' },
      seesSessions: true,
    }
    expect(judgeServer(server)).toEqual([])
    const bad = {
      version: 130_010,
      unsafe: ['fsync'],
      unvacuumed: ['autovacuum'],
      connections: 90,
      seesSessions: false,
    }
    expect(codes(judgeServer({ ...server, ...bad }))).toEqual([
      ...['postgres_too_old', 'not_durable', 'autovacuum_off', 'connections_exhausted', 'privileges_missing'],
    ])
    expect([judgeClock(5000, 4100, 10), judgeClock(5000, 3000, 3000)]).toEqual([[], []])
    expect(one(judgeClock(5000, 7500, 10))).toEqual([
      "clock_skew: This gateway's clock is 2500 ms behind that of Postgres.",
    ])
    expect(judgeLate({ due: ago(14_000), leases: null, schedules: null }, now)).toEqual([])
    expect(codes(judgeLate({ due: null, leases: null, schedules: ago(16_000) }, now))).toEqual(['upkeep_missing'])
  })

  test('codes are words of the contract', () => {
    for (const code of problemCodes) expect(code).toMatch(/^[a-z]+(_[a-z]+)*$/)
  })
})
