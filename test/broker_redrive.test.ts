/** Redriving dead letters: which, how many, how fast, where to, and that neither a crash nor a race loses or doubles one. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { everyLetter, type NewMessage, type QueueSettings, type RedriveRequest, type Task } from '../src/model/index.ts'
import { claimTasks, connect, holdTask, type RedriveStep, readLetters, redriveLetters } from '../src/store/index.ts'
import { ack, type Bench, bodies, brokerOn, brokersOn, message, receive, send, settle } from './support/broker.ts'
import { http, startGateway } from './support/gateway.ts'
import { eventually } from './support/postgres.ts'

let bench: Bench
let a: Broker
let b: Broker

beforeAll(async () => {
  bench = await brokersOn(2)
  ;[a, b] = bench.brokers as [Broker, Broker]
})
afterAll(() => bench.stop())

const counts = async (queue: string) => (await a.admin.getQueue(queue)).counts
const numbered = (count: number): string[] => Array.from({ length: count }, (_, n) => `${n}`)
const everyone = (_queue: string) => true
const ask = (queue: string, more: Partial<RedriveRequest> = {}, may = everyone, broker = a) =>
  broker.admin.redrive(queue, { to: null, filter: everyLetter, limit: null, rate: null, dryRun: false, ...more }, may)
const finished = ({ id }: Task, ms = 20_000): Promise<Task> =>
  eventually(async () => {
    const task = await b.admin.getTask(id)
    return task.state !== 'running' && task
  }, ms)
const redriven = async (queue: string, more: Partial<RedriveRequest> = {}) => finished(await ask(queue, more))
const bodiesOf = async (queue: string, state: 'dead' | 'ready') =>
  (await a.admin.browseMessages(queue, state, { limit: 1000, cursor: null })).data.map((each) => each.body.toString())

/** Sends and rejects them; the ids. */
async function bury(queue: string, ...messages: (string | NewMessage)[]): Promise<string[]> {
  const ids = await send(a, queue, ...messages)
  for (let left = ids.length; left > 0; ) {
    const got = await receive(a, queue, 1000, { waitMs: 5000 })
    await settle(a, ...got.map(({ receipt }) => ({ action: 'reject' as const, receipt, reason: 'no' })))
    left -= got.length
  }
  return ids
}
async function queue(name: string, settings: Partial<QueueSettings> = {}): Promise<string> {
  await a.admin.putQueue(name, settings)
  return name
}

describe('what is moved', () => {
  test('every letter once, in order, with its id, its headers and a first attempt', async () => {
    const q = await queue('plain')
    const ids = await bury(q, ...numbered(1200).map((n) => message(n, { headers: { n }, priority: 5 })))
    const task = await ask(q)
    expect(task).toMatchObject({
      kind: 'redrive',
      queue: q,
      to: null,
      state: 'running',
      dryRun: false,
      finishedAt: null,
    })
    expect(await finished(task)).toMatchObject({
      state: 'done',
      ...{ scanned: 1200, matched: 1200, moved: 1200, skipped: 0, error: null, finishedAt: expect.any(Date) },
    })
    expect(await counts(q)).toEqual({ ready: 1200, delayed: 0, leased: 0, dead: 0 })
    const got = [...(await receive(b, q, 1000)), ...(await receive(a, q, 1000))]
    expect(got.map((each) => each.id)).toEqual(ids)
    expect(bodies(got)).toEqual(numbered(1200))
    expect(got.every((each) => each.attempt === 1 && Object.keys(each.headers).length === 1)).toBe(true)
  })

  test('wakes a receiver that waits, through either gateway', async () => {
    const q = await queue('waking')
    await bury(q, 'x')
    const waiting = receive(b, q, 1, { waitMs: 10_000 })
    const startMs = performance.now()
    await ask(q)
    expect(bodies(await waiting)).toEqual(['x'])
    expect(performance.now() - startMs).toBeLessThan(3000)
  })

  test('what the filter says: content, reason, key and time of death', async () => {
    const q = await queue('chosen', { maxAttempts: 1 })
    const target = await queue('chosen-target')
    await bury(
      q,
      message('{"total":5}', { headers: { tenant: 'acme' }, key: 'k1' }),
      message('{"total":50}', { headers: { tenant: 'acme' }, key: 'k2' }),
      message('{"total":500}', { headers: { tenant: 'other' } }),
      message('no json'),
    )
    await send(a, q, 'worn out')
    const [last] = await receive(a, q)
    await settle(a, { action: 'nack', receipt: last?.receipt ?? '', delayMs: 0, error: 'broken' })
    const { data } = await a.admin.browseMessages(q, 'dead', { limit: 10, cursor: null })
    const lastMs = data.at(-1)?.dead?.diedAt.getTime() ?? 0
    const dry = async (filter: Partial<RedriveRequest['filter']>) =>
      (await redriven(q, { filter: { ...everyLetter, ...filter }, dryRun: true })).matched
    expect(await dry({})).toBe(5)
    expect(await dry({ content: { body: { total: [{ numeric: ['>', 10] }] } } })).toBe(2)
    expect(await dry({ content: { headers: { tenant: ['acme'] }, body: { total: [{ numeric: ['>', 10] }] } } })).toBe(1)
    expect(await dry({ content: { $or: [{ headers: { tenant: ['other'] } }, { body: { total: [5] } }] } })).toBe(2)
    expect(await dry({ reasons: ['max_attempts'] })).toBe(1)
    expect(await dry({ reasons: ['expired'] })).toBe(0)
    expect(await dry({ keys: ['k1', 'k2', 'k3'] })).toBe(2)
    expect(await dry({ diedFromMs: lastMs })).toBe(1)
    expect(await dry({ diedBeforeMs: lastMs })).toBe(4)
    const task = await redriven(q, { to: target, filter: { ...everyLetter, reasons: ['max_attempts'] } })
    expect(task).toMatchObject({ scanned: 5, matched: 1, moved: 1, to: target })
    const [got] = await receive(a, target)
    expect(got).toMatchObject({ id: last?.id, attempt: 1 })
    expect(got?.headers).toMatchObject({
      ...{ 'postern-dead-reason': 'max_attempts', 'postern-dead-queue': q, 'postern-dead-attempts': '1' },
      'postern-dead-error': 'broken',
      'postern-died-at': expect.stringMatching(/Z$/),
    })
    expect(await bodiesOf(q, 'dead')).toEqual(['{"total":5}', '{"total":50}', '{"total":500}', 'no json'])
  })

  test('no more than the limit, the oldest first; a dry run moves nothing', async () => {
    const q = await queue('limited')
    await bury(q, ...numbered(20))
    expect(await redriven(q, { limit: 7, dryRun: true })).toMatchObject({
      dryRun: true,
      matched: 7,
      moved: 0,
      skipped: 0,
    })
    expect(await counts(q)).toMatchObject({ ready: 0, dead: 20 })
    expect(await redriven(q, { limit: 7 })).toMatchObject({ state: 'done', matched: 7, moved: 7, scanned: 7 })
    expect(await bodiesOf(q, 'ready')).toEqual(numbered(7))
    expect(await redriven(q, { limit: 100 })).toMatchObject({ moved: 13 })
  })

  test('at no more than the rate', async () => {
    const q = await queue('paced')
    await bury(q, ...numbered(60))
    const startMs = performance.now()
    const task = await ask(q, { rate: { count: 30, perMs: 1000 } })
    const seen: [ms: number, moved: number][] = []
    await eventually(async () => {
      const { moved, state } = await b.admin.getTask(task.id)
      seen.push([performance.now() - startMs, moved])
      return state === 'done'
    }, 20_000)
    // What the rate allows, and what a burst of a tenth of a second adds.
    for (const [ms, moved] of seen) expect(moved).toBeLessThanOrEqual((30 * ms) / 1000 + 5)
    expect(await counts(q)).toMatchObject({ ready: 60, dead: 0 })
  })

  test('what dies again meanwhile is left, so that a task ends', async () => {
    const q = await queue('again')
    await bury(q, ...numbered(40))
    const task = await ask(q, { rate: { count: 100, perMs: 1000 } })
    let rejected = 0
    await eventually(async () => {
      const got = await receive(b, q, 10, { waitMs: 50 })
      rejected += got.length
      await settle(b, ...got.map(({ receipt }) => ({ action: 'reject' as const, receipt, reason: 'again' })))
      return rejected === 40
    })
    expect(await finished(task)).toMatchObject({ state: 'done', moved: 40, scanned: 40 })
    expect(await counts(q)).toMatchObject({ ready: 0, dead: 40 })
  })

  test('a letter that is edited or taken between reading and moving is skipped, not lost', async () => {
    const q = await queue('edited')
    const ids = await bury(q, ...numbered(4))
    const { sql } = bench.db
    // Holds the second and third letter, as somebody does who is changing one and deleting the other.
    let task: Task | undefined
    await sql.begin(async (tx) => {
      const rows = await tx<
        { id: string }[]
      >`select d.id::text from postern.dead d join postern.queues q on q.id = d.queue_id
        where q.name = ${q} order by d.position`
      await tx`update postern.dead set body = 'changed' where id = ${rows[1]?.id ?? ''}`
      await tx`delete from postern.dead where id = ${rows[2]?.id ?? ''}`
      task = await ask(q)
      await eventually(async () => {
        const [row] = await sql`select 1 from pg_stat_activity
          where wait_event_type = 'Lock' and query like '/* redrive dead */%' and datname = current_database()`
        return row
      })
    })
    expect(await finished(task as Task)).toMatchObject({ state: 'done', matched: 4, moved: 2, skipped: 2 })
    expect((await receive(a, q, 5)).map((each) => each.id)).toEqual([ids[0], ids[3]])
    expect(await bodiesOf(q, 'dead')).toEqual(['changed'])
  })
})

describe('where to', () => {
  test('letters in a dead-letter queue return to their origins as they were sent, and what never died stays', async () => {
    const dlq = await queue('dlq')
    const one = await queue('one', { deadLetterQueue: dlq })
    const two = await queue('two', { deadLetterQueue: dlq, order: 'lifo' })
    const ids1 = await bury(one, message('1', { headers: { tenant: 'acme' } }), message('2'))
    const ids2 = await bury(two, message('3', { priority: 9 }), message('4', { priority: 9 }))
    await send(a, dlq, 'never died', message('forged', { headers: { 'postern-dead-queue': 'plain' } }))
    // And one that died there.
    await bury(await queue('three', { deadLetterQueue: dlq }), 'died twice')
    const third = (await receive(a, dlq, 20)).find((each) => each.headers['postern-dead-queue'] === 'three')
    await settle(a, { action: 'reject', receipt: third?.receipt ?? '', reason: 'again' })
    const { sql } = bench.db
    await sql`update postern.messages set leased_until = now() - interval '1 s' where lease_token <> 0`
    await sql`update postern.leases set expires_at = now() - interval '1 s'`
    await eventually(async () => (await counts(dlq)).ready === 6)

    expect(await redriven(dlq, { filter: { ...everyLetter, keys: ['none'] } })).toMatchObject({
      scanned: 6,
      matched: 0,
    })
    expect(await redriven(dlq)).toMatchObject({ state: 'done', to: null, scanned: 6, matched: 6, moved: 5, skipped: 1 })
    const got1 = await receive(a, one, 5)
    expect(got1.map((each) => [each.id, each.headers])).toEqual([
      [ids1[0], { tenant: 'acme' }],
      [ids1[1], {}],
    ])
    const got2 = await receive(b, two, 5)
    expect(got2.map((each) => each.id).sort()).toEqual(ids2)
    expect(got2.every((each) => each.priority === 9 && each.attempt === 1)).toBe(true)
    expect((await bodiesOf(dlq, 'ready')).sort()).toEqual(['died twice', 'forged', 'never died'])
  })

  test('letters that wait behind their key in a dead-letter queue return too, and what never died stays', async () => {
    const dlq = await queue('keyed-dlq', { order: 'keyed' })
    const home = await queue('keyed-home', { deadLetterQueue: dlq })
    const from = await queue('keyed-from')
    await bury(from, ...numbered(20).map((n) => message(n, { key: `k${Number(n) % 2}` })))
    expect(await redriven(from, { to: dlq })).toMatchObject({ moved: 20 })
    await send(a, dlq, message('never died', { key: 'k0' }))
    // As if they had died in the queue whose dead letters come here.
    const { sql } = bench.db
    for (const table of ['messages', 'waiting'])
      await sql`update postern.${sql(table)} set headers = jsonb_set(headers, '{postern-dead-queue}', ${sql.json(home)})
        where headers ->> 'postern-dead-queue' = ${from}`
    const [{ n } = { n: 0 }] = await sql<{ n: number }[]>`select count(*)::int as n from postern.waiting`
    expect(n).toBeGreaterThan(10)
    expect(await redriven(dlq, { dryRun: true })).toMatchObject({ scanned: 20, matched: 20, moved: 0 })
    expect(await redriven(dlq)).toMatchObject({ state: 'done', scanned: 20, matched: 20, moved: 20, skipped: 0 })
    expect((await bodiesOf(home, 'ready')).sort()).toEqual(numbered(20).sort())
    expect(await bodiesOf(dlq, 'ready')).toEqual(['never died'])
    // Its key goes on.
    expect(bodies(await receive(b, dlq, 5, { waitMs: 5000 }))).toEqual(['never died'])
  })

  test('with `to`, those of a dead-letter queue go there too, filtered by why they died', async () => {
    const dlq = await queue('dlq2')
    const q = await queue('source2', { deadLetterQueue: dlq, maxAttempts: 1 })
    const parking = await queue('parking')
    await bury(q, 'rejected')
    await send(a, q, 'worn out')
    const [got] = await receive(a, q)
    await settle(a, { action: 'nack', receipt: got?.receipt ?? '', delayMs: 0 })
    await eventually(async () => (await counts(dlq)).ready === 2)
    const filter = { ...everyLetter, reasons: ['max_attempts' as const], diedFromMs: 1 }
    expect(await redriven(dlq, { to: parking, filter })).toMatchObject({ scanned: 2, matched: 1, moved: 1 })
    expect(await bodiesOf(parking, 'ready')).toEqual(['worn out'])
    expect((await receive(a, parking))[0]?.headers).toMatchObject({ 'postern-dead-queue': q })
  })

  test('letters that would never rest are refused', async () => {
    const dlq = await queue('rest-dlq')
    await queue('rest', { deadLetterQueue: dlq })
    const field = (pointer: string) => ({ code: 'invalid_value', errors: [{ pointer }] })
    await expect(ask(dlq, { to: dlq })).rejects.toMatchObject(field('/to'))
    await expect(ask('rest', { to: 'nowhere' })).rejects.toMatchObject(field('/to'))
    await expect(ask('nowhere')).rejects.toMatchObject({ code: 'queue_not_found' })
    await expect(ask(dlq, { to: 'rest' })).resolves.toMatchObject({ to: 'rest' })
    await a.admin.putQueue(dlq, { deadLetterQueue: 'rest' })
    await expect(ask('plain', { to: 'rest' })).rejects.toMatchObject(field('/to'))
    await expect(ask(dlq)).rejects.toMatchObject(field('/to'))
    await expect(ask(dlq, { to: 'plain' })).resolves.toMatchObject({ to: 'plain' })
    await expect(ask('plain', { to: 'plain' })).resolves.toMatchObject({ to: 'plain' })
  })

  test('a caller must be allowed to send to each origin, unless it gives another target', async () => {
    const dlq = await queue('scoped-dlq')
    await queue('scoped', { deadLetterQueue: dlq })
    const may = (name: string) => name !== 'scoped'
    await expect(ask(dlq, {}, may)).rejects.toMatchObject({ code: 'forbidden' })
    await expect(ask(dlq, { to: 'plain' }, may)).resolves.toMatchObject({ state: 'running' })
  })

  test('on a keyed queue each key keeps its order, behind what is under way', async () => {
    const from = await queue('unkeyed')
    const q = await queue('keyed', { order: 'keyed' })
    await bury(from, ...numbered(30).map((n) => message(n, { key: `k${Number(n) % 3}` })), message('free'))
    await send(a, q, message('first', { key: 'k0' }))
    const [first] = await receive(a, q, 1, { waitMs: 5000 })
    expect(await redriven(from, { to: q })).toMatchObject({ moved: 31 })
    const order: Record<string, string[]> = {}
    let total = 0
    await eventually(async () => {
      const got = await receive(b, q, 10, { waitMs: 100 })
      for (const each of got) {
        order[each.key ?? 'free'] ??= []
        order[each.key ?? 'free']?.push(each.body.toString())
      }
      await ack(b, ...got)
      total += got.length
      if (total === 21 && first) await ack(a, first)
      return total === 31
    })
    for (const key of [0, 1, 2]) expect(order[`k${key}`]).toEqual(numbered(30).filter((n) => Number(n) % 3 === key))
    expect(await counts(q)).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
  })

  test('a full queue is waited for; what could never fit is skipped', async () => {
    const from = await queue('many')
    const q = await queue('small', { maxMessages: 3, maxBytes: 100 })
    await bury(from, '1', 'x'.repeat(101), ...numbered(4))
    const task = await ask(from, { to: q })
    const waiting = await eventually(async () => {
      const now = await a.admin.getTask(task.id)
      return now.error !== null && now
    })
    expect(waiting).toMatchObject({
      state: 'running',
      moved: 3,
      skipped: 1,
      scanned: 4,
      error: expect.stringContaining(q),
    })
    await ack(a, ...(await receive(a, q, 2)))
    expect(await finished(task)).toMatchObject({ state: 'done', moved: 5, skipped: 1, error: null })
    expect(await counts(from)).toMatchObject({ dead: 1 })
    await a.admin.deleteQueue(q, true)
  })

  test('when the queue that gets them is deleted the task fails, and the rest stays', async () => {
    const from = await queue('orphaned')
    const q = await queue('short-lived')
    await bury(from, ...numbered(50))
    const task = await ask(from, { to: q, rate: { count: 20, perMs: 1000 } })
    await eventually(async () => (await a.admin.getTask(task.id)).moved > 0)
    await a.admin.deleteQueue(q, true)
    const failed = await finished(task)
    expect(failed).toMatchObject({ state: 'failed', error: 'The queue short-lived is gone.' })
    expect((await counts(from)).dead + failed.moved).toBe(50)
  })
})

describe('who does it', () => {
  test('tasks that wait for their rate are in nobody’s way', async () => {
    const slow = await queue('slow')
    await bury(slow, ...numbered(3))
    const others = []
    // More than two gateways do at a time.
    for (let n = 0; n < 20; n++) others.push(await ask(slow, { rate: { count: 1, perMs: 3_600_000 } }))
    await eventually(async () => {
      const [row] = await bench.db.sql<{ n: number }[]>`
        select count(*)::int as n from postern.tasks where queue = ${slow} and owner is not null`
      return row?.n === others.length
    })
    const q = await queue('quick')
    await bury(q, 'x')
    expect(await redriven(q)).toMatchObject({ state: 'done', moved: 1 })
    for (const { id } of others) await a.admin.cancelTask(id)
    expect(await counts(slow)).toMatchObject({ dead: 3 })
  })

  test('what was redriven counts as what came in', async () => {
    const q = await queue('counted')
    const to = await queue('counted-to')
    await bury(q, ...numbered(30))
    await redriven(q, { to })
    await eventually(async () => {
      const rates = await Promise.all([a, b].map((broker) => broker.admin.queueStats(to)))
      return rates.some(({ inRate }) => inRate === 0.5)
    })
  })

  test('they are listed, the newest first, page by page; those that the caller may not see are not', async () => {
    const [one, two] = [await queue('list-one'), await queue('list-two')]
    const ids: string[] = []
    for (const q of [one, two, one, two, one]) ids.unshift((await redriven(q)).id)
    const list = async (limit: number, queue: string | null, may = (_task: Task) => true) => {
      const found: string[] = []
      for (let cursor: string | null = null; ; ) {
        const page = await a.admin.listTasks({ limit, cursor, queue, may })
        expect(page.data.length).toBeLessThanOrEqual(limit)
        found.push(...page.data.map((task) => task.id))
        cursor = page.nextCursor
        if (cursor === null) return found
      }
    }
    expect((await list(100, null)).slice(0, 5)).toEqual(ids)
    expect((await list(2, null)).slice(0, 5)).toEqual(ids)
    const ofOne = ids.filter((_, n) => n % 2 === 0)
    expect(await list(1, one)).toEqual(ofOne)
    expect(await list(3, one)).toEqual(ofOne)
    expect(await list(2, null, (task) => task.queue === one)).toEqual(ofOne)
  })

  test('a cancelled task moves nothing more from the moment of the answer, and stays to be read', async () => {
    const q = await queue('cancelled')
    await bury(q, ...numbered(300))
    const task = await ask(q, { rate: { count: 100, perMs: 1000 } })
    await eventually(async () => (await a.admin.getTask(task.id)).moved > 0)
    await b.admin.cancelTask(task.id)
    const { dead } = await counts(q)
    const { moved, state } = await a.admin.getTask(task.id)
    expect([state, moved + dead]).toEqual(['cancelled', 300])
    await b.admin.cancelTask(task.id)
    // Another, on the same letters, is not hindered; meanwhile the first has had its time.
    expect(await redriven(q, { limit: 10, rate: { count: 20, perMs: 1000 } })).toMatchObject({ moved: 10 })
    expect(await a.admin.getTask(task.id)).toMatchObject({ state: 'cancelled', moved })
    await expect(a.admin.getTask('task_none')).rejects.toMatchObject({ code: 'task_not_found' })
  })

  test('two tasks on the same letters move each once', async () => {
    const q = await queue('contested')
    const ids = await bury(q, ...numbered(1000))
    const [one, two] = await Promise.all([ask(q, {}, everyone, a), ask(q, {}, everyone, b)])
    const done = await Promise.all([finished(one), finished(two)])
    expect(done.map((task) => task.moved).reduce((x, y) => x + y)).toBe(1000)
    const got = await receive(a, q, 1000)
    expect(new Set(got.map((each) => each.id))).toEqual(new Set(ids))
    expect(got).toHaveLength(1000)
  })

  test('a gateway that lost its task in the middle moves nothing more; another goes on when its time is over', async () => {
    const q = await queue('stolen')
    await bury(q, ...numbered(400))
    const task = await ask(q, { rate: { count: 200, perMs: 1000 } })
    await eventually(async () => (await a.admin.getTask(task.id)).moved > 20)
    const { sql } = bench.db
    await sql`update postern.tasks set owner = 'gone', leased_until = now() + interval '2 seconds' where name = ${task.id}`
    const { moved } = await a.admin.getTask(task.id)
    const startMs = performance.now()
    const next = await eventually(async () => {
      const now = await b.admin.getTask(task.id)
      return now.moved > moved && now
    })
    expect(performance.now() - startMs).toBeGreaterThan(1500)
    expect(next.moved).toBeLessThan(400)
    expect(await finished(task)).toMatchObject({ state: 'done', moved: 400, scanned: 400, skipped: 0 })
    expect(bodies(await receive(a, q, 1000))).toEqual(numbered(400))
  })

  test('a step that is tried again after its answer was lost does nothing; its twin, from where the task is, does', async () => {
    const alone = await brokersOn(0)
    const broker = brokerOn(alone.db.url, 6, { upkeep: false })
    await broker.start()
    await broker.admin.putQueue('twice', {})
    await send(broker, 'twice', ...numbered(4))
    const got = await receive(broker, 'twice', 10)
    await settle(broker, ...got.map(({ receipt }) => ({ action: 'reject' as const, receipt, reason: null })))
    await ask('twice', {}, everyone, broker)
    const db = connect({ databaseUrl: alone.db.url, pool: 2, prepare: true })
    const [task = 0] = await claimTasks(db, 'me', 5000, 10)
    const step = async (count: number): Promise<RedriveStep> => {
      const held = await holdTask(db, 'me', task, 5000)
      if (!held) throw new Error('not held')
      const page = { limit: count, maxBytes: 1e6, withBody: false }
      const rows = await readLetters(db, 'dead', held.queueId, held.at, { position: held.upTo }, page)
      const letters = rows.map((row, n) => ({ ...row, targetId: held.queueId, seen: n + 1 }))
      const end = rows.at(-1) ?? held.at
      return {
        task,
        gateway: 'me',
        queueId: held.queueId,
        from: 'dead',
        at: held.at,
        letters,
        end,
        scanned: count,
        matched: count,
        aliveMs: 5000,
      }
    }
    const first = await step(2)
    expect(await redriveLetters(db, first)).toMatchObject({ moved: 2 })
    expect(await redriveLetters(db, first)).toBeNull()
    const second = await step(2)
    expect(await redriveLetters(db, { ...second, gateway: 'other' })).toBeNull()
    expect(await redriveLetters(db, second)).toMatchObject({ moved: 2 })
    expect(await holdTask(db, 'me', task, 5000)).toMatchObject({ moved: 4, matched: 4, scanned: 4, skipped: 0 })
    // Nobody told the broker: its next sweep finds them.
    expect(bodies(await receive(broker, 'twice', 10, { waitMs: 15_000 }))).toEqual(numbered(4))
    await db.close()
    await broker.stop(1000)
    await alone.stop()
  })

  test('kill -9 of the gateway that runs it: another continues, and every letter is moved once', async () => {
    const alone = await brokersOn(1)
    const [broker] = alone.brokers as [Broker]
    const gateway = await startGateway({ DATABASE_URL: alone.db.url })
    try {
      await broker.admin.putQueue('killed', {})
      const ids = await send(broker, 'killed', ...numbered(600))
      const got = await receive(broker, 'killed', 1000)
      await settle(broker, ...got.map(({ receipt }) => ({ action: 'reject' as const, receipt, reason: null })))
      // So that the other process takes the task.
      await broker.stop(1000)
      const body = JSON.stringify({ rate: '200/s' })
      const answer = await http(gateway, 'POST', '/v1/queues/killed/redrive', body)
      expect(answer.status).toBe(202)
      const { id } = (await answer.json()) as { id: string }
      const look = async () => (await (await http(gateway, 'GET', `/v1/tasks/${id}`)).json()) as { moved: number }
      await eventually(async () => (await look()).moved > 50)
      gateway.kill('SIGKILL')
      await gateway.exited
      const heir = brokerOn(alone.db.url)
      await heir.start()
      expect(await heir.admin.getTask(id)).toMatchObject({ state: 'running' })
      const done = await eventually(async () => {
        const task = await heir.admin.getTask(id)
        return task.state !== 'running' && task
      }, 30_000)
      expect(done).toMatchObject({ state: 'done', moved: 600, scanned: 600, skipped: 0 })
      expect((await receive(heir, 'killed', 1000)).map((each) => each.id)).toEqual(ids)
      await heir.stop(1000)
    } finally {
      gateway.kill('SIGKILL')
      await alone.db.drop()
    }
  }, 60_000)

  test('a gateway that stops gives its tasks back at once', async () => {
    const leaving = brokerOn(bench.db.url)
    await leaving.start()
    const q = await queue('handed-on')
    await bury(q, ...numbered(100))
    const task = await ask(q, { rate: { count: 50, perMs: 1000 } }, everyone, leaving)
    await eventually(async () => (await a.admin.getTask(task.id)).moved > 0)
    await leaving.stop(1000)
    expect(await finished(task)).toMatchObject({ state: 'done', moved: 100 })
  })

  test('tasks are forgotten: cancelled ones after a day, others after a week', async () => {
    const q = await queue('forgotten')
    const { sql } = bench.db
    const aged = async (state: string, days: number) => {
      const { id } = await redriven(q)
      await sql`update postern.tasks set state = ${state}, finished_at = now() - ${days} * interval '1 day' where name = ${id}`
      return id
    }
    const kept = [await aged('cancelled', 0.9), await aged('done', 6.9)]
    const gone = [await aged('cancelled', 1.1), await aged('failed', 7.1)]
    const there = async () => (await sql<{ name: string }[]>`select name from postern.tasks`).map((row) => row.name)
    await eventually(async () => !(await there()).some((name) => gone.includes(name)), 20_000)
    expect(await there()).toEqual(expect.arrayContaining(kept))
  }, 40_000)
})

test('a late ack cannot settle a letter that was redriven, wherever it went', async () => {
  const q = await queue('late')
  const elsewhere = await queue('late-elsewhere')
  const keyed = await queue('late-keyed', { order: 'keyed' })
  for (const to of [null, elsewhere]) {
    await send(a, q, 'x')
    const [got] = await receive(a, q)
    await settle(a, { action: 'reject', receipt: got?.receipt ?? '', reason: null })
    await redriven(q, { to })
    expect(await ack(b, ...(got ? [got] : []))).toEqual(['lease_lost'])
    expect(await counts(to ?? q)).toMatchObject({ ready: 1 })
    await a.admin.purgeQueue(q, ['ready'])
  }
  await send(a, keyed, message('1', { key: 'k' }))
  const [got] = await receive(a, keyed, 1, { waitMs: 5000 })
  await settle(a, { action: 'reject', receipt: got?.receipt ?? '', reason: null })
  await send(a, keyed, message('2', { key: 'k' }))
  await redriven(keyed)
  expect(await ack(b, ...(got ? [got] : []))).toEqual(['lease_lost'])
})
