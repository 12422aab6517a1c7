/** Metrics: what is served is what is listed, and each says what happened, no more often and no less. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { QueueState, Watch } from '../src/broker/index.ts'
import { createWatch } from '../src/broker/watch.ts'
import { connect } from '../src/store/index.ts'
import { createTelemetry, type Metric, metrics } from '../src/telemetry/index.ts'
import { refusal, rootKey, testApp } from './support/app.ts'
import { ack, message, receive, send, settle } from './support/broker.ts'
import { eventually } from './support/postgres.ts'
import { startSink, status } from './support/sink.ts'
import { scraped, type Watched, watched } from './support/watched.ts'

let app: Watched
beforeAll(async () => {
  app = await watched()
})
afterAll(() => app.stop())

const reject = (receipt: string) => ({ action: 'reject' as const, receipt, reason: null })
const nack = (receipt: string) => ({ action: 'nack' as const, receipt, delayMs: null })

describe('the list', () => {
  test('names everything that is served, with its labels, and nothing else', async () => {
    await app.broker.admin.putQueue('listed', {})
    await send(app.broker, 'listed', 'x')
    const { text, series } = await app.scrape()
    const served = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => `${name} ${type}`)
    expect(served.sort()).toEqual(
      Object.entries(metrics)
        .map(([name, { type }]) => `${name} ${type}`)
        .sort(),
    )
    for (const { name, labels } of series) {
      const metric = listed(name)
      expect(metric, name).toBeDefined()
      const own = Object.keys(labels).filter((label) => label !== 'le')
      expect(own, name).toEqual(metric?.labels)
    }
    for (const [name, { help }] of Object.entries(metrics)) expect(text).toContain(`# HELP ${name} ${help}`)
  })

  test('has a prefix, a unit where there is one, and a sentence', () => {
    for (const [name, { type, help }] of Object.entries(metrics)) {
      expect(name).toMatch(/^postern_[a-z0-9_]+$/)
      expect(name.endsWith('_total'), name).toBe(type === 'counter')
      expect(help, name).toMatch(/^[A-Z0-9].*\.$/)
    }
  })
})

const listed = (name: string): Metric | undefined =>
  (metrics as Record<string, Metric>)[name] ??
  (metrics as Record<string, Metric>)[name.replace(/_(bucket|sum|count)$/, '')]

describe('of a queue', () => {
  test('each thing that happens to a message is counted once', async () => {
    const { broker } = app
    await broker.admin.putQueue('counted', { maxMessages: 4 })
    const dedupId = 'twice'
    await send(broker, 'counted', message('a', { dedupId }), 'b', 'c')
    await send(broker, 'counted', message('a', { dedupId }))
    const refused = await broker.send('counted', [message('d'), message('e')])
    expect(refused.filter((each) => each instanceof Error)).toHaveLength(1)
    const [one, two, three, four] = await receive(broker, 'counted', 4)
    if (!one || !two || !three || !four) throw new Error('four messages')
    const actions = [
      reject(two.receipt),
      nack(three.receipt),
      { action: 'extend' as const, receipt: four.receipt, leaseMs: 60_000 },
    ]
    await ack(broker, one)
    expect(await settle(broker, ...actions)).toEqual(['rejected', 'nacked', 'extended'])
    expect(await settle(broker, nack(two.receipt))).toEqual(['lease_lost'])
    const { value } = await app.scrape()
    const queue = 'counted'
    const said = (name: string, labels = {}) => value(`postern_messages_${name}`, { queue, ...labels })
    expect(['sent_total', 'deduplicated_total', 'refused_total', 'leased_total'].map((name) => said(name))).toEqual([
      4, 1, 1, 4,
    ])
    const outcomes = ['acked', 'rejected', 'nacked', 'extended', 'lease_lost']
    expect(outcomes.map((outcome) => said('settled_total', { outcome }))).toEqual([1, 1, 1, 1, 1])
    expect(said('dead_lettered_total', { reason: 'rejected' })).toBe(1)
    expect(said('dead_lettered_total', { reason: 'gone' })).toBe(0)
    const states = ['ready', 'leased', 'dead', 'delayed']
    expect(states.map((state) => value('postern_queue_messages', { queue, state }))).toEqual([1, 1, 1, 0])
    expect(value('postern_queue_oldest_ready_seconds', { queue })).toBeGreaterThan(0)
    expect(value('postern_message_delivery_seconds_count', { queue })).toBe(4)
    // A second lease is no first delivery.
    await receive(broker, 'counted', 1)
    const again = await app.scrape()
    expect(again.value('postern_message_delivery_seconds_count', { queue })).toBe(4)
    expect(again.value('postern_messages_leased_total', { queue })).toBe(5)
  })

  test('a message that is handed to a waiting receiver is leased all the same', async () => {
    const { broker } = app
    await broker.admin.putQueue('handed', {})
    const waiting = receive(broker, 'handed', 1, { waitMs: 20_000 })
    await eventually(
      async () => (await app.scrape()).value('postern_queue_waiting_receives', { queue: 'handed' }) === 1,
    )
    await send(broker, 'handed', 'x')
    expect(await waiting).toHaveLength(1)
    const { value } = await app.scrape()
    expect(value('postern_messages_leased_total', { queue: 'handed' })).toBe(1)
    expect(value('postern_queue_waiting_receives', { queue: 'handed' })).toBeUndefined()
  })

  test('with drop_oldest, a message that needed two statements was sent once', async () => {
    const { broker } = app
    await broker.admin.putQueue('ring', { maxMessages: 2, overflow: 'drop_oldest' })
    await send(broker, 'ring', 'a', 'b', 'c', 'd', 'e')
    const { value } = await app.scrape()
    expect(value('postern_messages_sent_total', { queue: 'ring' })).toBe(5)
    expect(value('postern_messages_refused_total', { queue: 'ring' })).toBe(0)
  })

  test('leases that end by themselves, letters that go elsewhere, and lives that end are told apart', async () => {
    const { broker } = app
    await broker.admin.putQueue('grave', {})
    await broker.admin.putQueue('ends', { deadLetterQueue: 'grave', maxAttempts: 1 })
    await send(broker, 'ends', message('short', { ttlMs: 1000 }), 'leased', 'refused')
    const [, leased, refused] = await receive(broker, 'ends', 3, { leaseMs: 1000 })
    if (!leased || !refused) throw new Error('three messages')
    await settle(broker, reject(refused.receipt))
    const said = await eventually(async () => {
      const { value } = await app.scrape()
      const of = (name: string) => value(name, { queue: 'ends' })
      return (of('postern_leases_expired_total') ?? 0) >= 2 && of
    })
    expect(said('postern_leases_expired_total')).toBe(2)
    expect(said('postern_messages_expired_total')).toBe(1)
    const { value } = await app.scrape()
    const died = (reason: string) => value('postern_messages_dead_lettered_total', { queue: 'ends', reason })
    expect(['max_attempts', 'rejected', 'expired', 'gone'].map(died)).toEqual([1, 1, 0, 0])
    expect(value('postern_queue_messages', { queue: 'grave', state: 'ready' })).toBe(2)
  })

  test('publishes are counted by what became of them: stored, unmatched, known, refused', async () => {
    const { broker } = app
    await broker.admin.putTopic('news', {})
    await broker.admin.putQueue('narrow', { maxMessages: 1 })
    const publish = (routingKey: string, dedupId: string | null = null) =>
      broker.publish('news', routingKey, message('x', { dedupId })).catch((error: Error) => error)
    await publish('nobody')
    await broker.admin.putBinding('news', 'all', { queue: 'narrow', pattern: 'a.#', filter: null })
    await publish('a.b', 'once')
    await publish('a.b', 'once')
    expect(await publish('a.c')).toMatchObject({ code: 'queue_full' })
    const { value } = await app.scrape()
    const outcomes = ['stored', 'unmatched', 'deduplicated', 'refused']
    expect(outcomes.map((outcome) => value('postern_publishes_total', { outcome }))).toEqual([1, 1, 1, 1])
  })

  test('times of schedules are counted by what became of them: sent, failed, missed', async () => {
    const { broker, database } = app
    await broker.admin.putQueue('ticks', {})
    await broker.admin.putQueue('brimful', { maxMessages: 1 })
    await send(broker, 'brimful', 'x')
    const tick = {
      ...{ body: Buffer.from('tick'), contentType: 'text/plain', headers: null, key: null, priority: 5 },
      ...{ delayMs: null, ttlMs: null },
    }
    const put = (name: string, queue: string, misfire: 'skip' | 'once') => {
      const settings = { cron: '0 0 1 1 *', timezone: 'UTC', target: { queue }, misfire, paused: null, message: tick }
      return broker.admin.putSchedule(name, settings, () => {})
    }
    await put('good', 'ticks', 'once')
    await put('full', 'brimful', 'once')
    await put('late', 'ticks', 'skip')
    await database.sql`update postern.schedules set next_fire_at = date_trunc('milliseconds', now()) - interval '1 hour'`
    const outcomes = ['sent', 'failed', 'missed']
    await eventually(async () => {
      const { value } = await app.scrape()
      return outcomes.every((outcome) => value('postern_schedule_fires_total', { outcome }) === 1)
    })
  })

  test('labels are bounded: the rest is other, which never goes back, and a queue that is gone makes room', async () => {
    const few = await watched({ labelsMost: 2 })
    const { broker } = few
    for (const [at, queue] of ['one', 'two', 'three', 'four'].entries()) {
      await broker.admin.putQueue(queue, {})
      await send(broker, queue, ...Array.from({ length: at + 1 }, () => 'x'))
    }
    const sent = async () => {
      const { series } = await few.scrape()
      return Object.fromEntries(
        series
          .filter(({ name }) => name === 'postern_messages_sent_total')
          .map(({ labels, value }) => [labels.queue, value]),
      )
    }
    expect(await sent()).toEqual({ one: 1, two: 2, other: 7 })
    const { value } = await few.scrape()
    expect(value('postern_queue_messages', { queue: 'other', state: 'ready' })).toBe(7)
    await broker.admin.deleteQueue('one', true)
    await broker.admin.deleteQueue('four', true)
    await send(broker, 'three', 'x')
    expect(await sent()).toEqual({ two: 2, three: 1, other: 7 })
    await few.stop()
  })

  test('counting is shared by those who ask at once', async () => {
    let counts = 0
    let counted = (): void => {}
    const watch = createWatch({
      db: { calm: async () => [{ id: 1, name: 'q', paused: false }] } as never,
      counted: () => {
        counts++
        return new Promise((resolve) => {
          counted = () => resolve(new Map())
        })
      },
      cluster: { listening: () => true, peers: () => [] },
      receiver: { waitingByQueue: () => [] },
    })
    const both = Promise.all([watch.queues(), watch.queues()])
    await eventually(() => counts > 0)
    counted()
    expect((await both).map(({ queues }) => queues.length)).toEqual([1, 1])
    expect(counts).toBe(1)
  })
})

describe('of the gateway', () => {
  test('requests by route, never by path; a word that is no method is other', async () => {
    await app.request('/v1/queues/counted')
    await app.request('/v1/queues/nowhere')
    await app.request('/no/such/path', { method: 'BREW' })
    const { value, series } = await app.scrape()
    const route = '/v1/queues/{queue}'
    expect(value('postern_http_requests_total', { route, method: 'GET', status: '200' })).toBe(1)
    expect(value('postern_http_requests_total', { route, method: 'GET', status: '404' })).toBe(1)
    expect(value('postern_http_requests_total', { route: '*', method: 'other' })).toBe(1)
    expect(value('postern_http_request_seconds_count', { route })).toBe(2)
    expect(value('postern_http_requests_under_way')).toBe(0)
    expect(JSON.stringify(series)).not.toContain('BREW')
  })

  test('statements by name, batches by kind, and the pools', async () => {
    const before = await app.scrape()
    await send(app.broker, 'listed', 'y')
    const { value, series } = await app.scrape()
    const count = 'postern_database_statement_seconds_count'
    expect(value(count, { statement: 'send' })).toBe((before.value(count, { statement: 'send' }) ?? 0) + 1)
    const batches = { kind: 'send' }
    expect(value('postern_batch_calls_count', batches)).toBe(
      (before.value('postern_batch_calls_count', batches) ?? 0) + 1,
    )
    expect(value(count, { statement: 'other' })).toBeUndefined()
    expect(value('postern_database_pool_connections')).toBe(6)
    expect(series.filter(({ name }) => name.endsWith('failures_total'))).toEqual([])
  })

  test('a transaction that holds back vacuum has an age, until it ends', async () => {
    const oldest = async () => (await app.scrape()).value('postern_database_oldest_transaction_seconds')
    const holder = await holding()
    const ageS = await holder.ageS()
    expect(await oldest()).toBeGreaterThanOrEqual(ageS)
    await holder.end()
    await eventually(async () => (await oldest()) === 0)
  })

  async function holding() {
    const db = connect({ databaseUrl: app.databaseUrl, pool: 2, prepare: true })
    let end = (): void => {}
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    let begun = (_at: number): void => {}
    const beginning = new Promise<number>((resolve) => {
      begun = resolve
    })
    const held = db.transaction(async (query) => {
      await query('/* hold */ set transaction isolation level repeatable read', [])
      const [row] = await query<{ at: number }>(
        `/* hold */ select date_part('epoch', now()) as at from postern.queues`,
        [],
      )
      begun(row?.at ?? 0)
      await ended
    })
    const at = await beginning
    return {
      async ageS() {
        const [row] = await db.hot<{ age: number }>(
          `/* age */ select date_part('epoch', clock_timestamp()) - $1::float8 as age`,
          [at],
        )
        return row?.age ?? Number.NaN
      },
      async end() {
        end()
        await held
        await db.close()
      },
    }
  }
})

describe('of a webhook', () => {
  test('attempts by answer and verdict, how long they took, and how the endpoint does', async () => {
    const good = await startSink()
    const bad = await startSink(status(500))
    app.push.start()
    const subscribe = async (queue: string, url: string): Promise<string> => {
      await app.broker.admin.putQueue(queue, {})
      const json = { queue, url, max_attempts: 1 }
      const answer = await app.request('/v1/subscriptions', { method: 'POST', json })
      return ((await answer.json()) as { id: string }).id
    }
    const fine = await subscribe('hooked', good.url)
    const failing = await subscribe('failing', bad.url)
    await send(app.broker, 'hooked', 'x')
    await send(app.broker, 'failing', ...Array.from({ length: 12 }, () => 'y'))
    const { value } = await eventually(async () => {
      const found = await app.scrape()
      const open = found.value('postern_webhook_circuit_open', { subscription: failing }) === 1
      return open && found.value('postern_webhook_attempts_total', { subscription: fine }) === 1 && found
    })
    expect(value('postern_webhook_attempts_total', { subscription: fine, answer: '2xx', verdict: 'settle' })).toBe(1)
    expect(value('postern_webhook_attempt_seconds_count', { subscription: fine })).toBe(1)
    expect(value('postern_webhook_delivery_seconds_count', { subscription: fine })).toBe(1)
    expect(value('postern_webhook_circuit_open', { subscription: fine })).toBe(0)
    const dead = value('postern_webhook_attempts_total', { subscription: failing, answer: '5xx', verdict: 'dead' })
    expect(dead).toBeGreaterThanOrEqual(10)
    expect(value('postern_webhook_delivery_seconds_count', { subscription: failing })).toBeUndefined()
    await app.request(`/v1/subscriptions/${failing}/disable`, { method: 'POST' })
    const states = await app.scrape()
    expect(states.value('postern_webhook_subscriptions', { state: 'enabled' })).toBe(1)
    expect(states.value('postern_webhook_subscriptions', { state: 'requested' })).toBe(1)
    await Promise.all([good.close(), bad.close()])
  })
})

describe('reading', () => {
  const scopes = (queues: string[], actions = ['read']) => ({ name: 'k', scopes: [{ actions, queues, topics: [] }] })
  async function keyed(options: Parameters<typeof watched>[0] = {}) {
    const closed = await watched({ rootKey, open: false, ...options })
    const read = (key?: string) =>
      closed.request('/metrics', key === undefined ? {} : { headers: { authorization: `Bearer ${key}` } })
    async function newKey(json: object): Promise<string> {
      const headers = { authorization: `Bearer ${rootKey}` }
      const answer = await closed.request('/v1/keys', { method: 'POST', headers, json })
      return ((await answer.json()) as { key: string }).key
    }
    return { closed, read, newKey }
  }

  test('takes a key that may read every queue', async () => {
    const { closed, read, newKey } = await keyed()
    expect(await refusal(await read())).toMatchObject({ status: 401, code: 'unauthenticated' })
    expect((await read('wrong')).status).toBe(401)
    expect(await refusal(await read(await newKey(scopes(['orders.*']))))).toMatchObject({ status: 403 })
    expect((await read(await newKey(scopes(['*'], ['send'])))).status).toBe(403)
    const answer = await read(await newKey(scopes(['*'])))
    expect([answer.status, answer.headers.get('content-type')]).toEqual([
      200,
      'text/plain; version=0.0.4; charset=utf-8',
    ])
    expect((await read(rootKey)).status).toBe(200)
    await closed.stop()
  })

  test('takes none with METRICS_PUBLIC, nor where nobody needs one', async () => {
    const { closed, read } = await keyed({ metricsPublic: true })
    expect((await read()).status).toBe(200)
    expect((await read('wrong')).status).toBe(401)
    await closed.stop()
    expect((await app.request('/metrics')).status).toBe(200)
    const foreign = await app.request('/metrics', { headers: { origin: 'http://evil.example' } })
    expect(foreign.status).toBe(403)
  })

  test('is never refused by the limits on requests', async () => {
    const { closed, read } = await keyed({ rateLimit: { count: 1, perMs: 3_600_000 } })
    for (let n = 0; n < 3; n++) expect((await read(rootKey)).status).toBe(200)
    await closed.stop()
  })

  test('shows no body, no header, no message key and no API key', async () => {
    const { broker } = app
    await broker.admin.putQueue('private', {})
    await send(broker, 'private', message('hunter2-body', { key: 'hunter2-key', headers: { h: 'hunter2-header' } }))
    const [delivery] = await receive(broker, 'private', 1)
    const { text } = await app.scrape()
    expect(text).toContain('private')
    expect(text).not.toContain('hunter2')
    expect(text).not.toContain(delivery?.receipt)
    expect(text).not.toContain(rootKey)
  })

  test('a gateway without metrics has none', async () => {
    const plain = await testApp()
    expect(await refusal(await plain.request('/metrics'))).toMatchObject({ status: 404 })
    await plain.stop()
  })
})

describe('when the database', () => {
  const here: Watch['here'] = () => ({ listening: false, peers: 0, pools: [], waiting: [] })
  const queue: QueueState = {
    id: 1,
    name: 'q',
    paused: false,
    ready: 3,
    delayed: 0,
    leased: 0,
    dead: 0,
    oldestReadyAgeS: 9,
  }
  const state = { oldestTransactionS: 0, deadRows: {}, subscriptions: {} }

  async function reading(patienceMs: number, broker: Partial<Watch>) {
    const telemetry = createTelemetry({ version: 'test', labelsMost: 10, patienceMs })
    const queues = async () => ({ queues: [queue], ageMs: 0 })
    const source = { here, queues, database: async () => state, ...broker }
    telemetry.attach({ broker: source, webhooks: () => [] })
    return { observe: telemetry.observe, source, read: async () => scraped((await telemetry.scrape()).text) }
  }

  test('is away, that is said, and the rest is still there', async () => {
    const away = () => Promise.reject(new Error('away'))
    const { source, read } = await reading(1000, {})
    expect((await read()).value('postern_database_up')).toBe(1)
    Object.assign(source, { database: away, queues: away })
    const { value } = await read()
    expect(value('postern_database_up')).toBe(0)
    expect(value('postern_queue_messages')).toBeUndefined()
    expect(value('postern_process_resident_memory_bytes')).toBeGreaterThan(0)
  })

  test('has not listed a queue yet, what was counted of it waits; of one that is gone it is other', async () => {
    const { source, read, observe } = await reading(1000, {})
    observe.sent(2, 5)
    const sent = async () => {
      const { value } = await read()
      return ['late', 'other'].map((queue) => value('postern_messages_sent_total', { queue }))
    }
    expect(await sent()).toEqual([undefined, undefined])
    Object.assign(source, { queues: async () => ({ queues: [queue, { ...queue, id: 2, name: 'late' }], ageMs: 0 }) })
    expect(await sent()).toEqual([5, undefined])
    observe.sent(3, 7)
    expect(await sent()).toEqual([5, undefined])
    expect(await sent()).toEqual([5, undefined])
    expect(await sent()).toEqual([5, 7])
  })

  test('hangs, the reading does not', async () => {
    const never = () => new Promise<never>(() => {})
    const { read } = await reading(1, { database: never, queues: never })
    expect((await read()).value('postern_database_up')).toBe(0)
  })

  test('counts slowly, the last counts are shown with their age', async () => {
    const { source, read } = await reading(5, {})
    await read()
    Object.assign(source, { queues: () => new Promise<never>(() => {}) })
    const { value } = await read()
    expect(value('postern_database_up')).toBe(1)
    expect(value('postern_queue_messages', { state: 'ready' })).toBe(3)
    expect(value('postern_queue_counts_age_seconds')).toBeGreaterThan(0)
  })
})
