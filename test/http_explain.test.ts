/** Why a message is where it is: every code through the door, on rows that got there the real way wherever that takes no waiting. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import { createPush } from '../src/push/index.ts'
import { refusal, rootKey, type TestApp, testApp } from './support/app.ts'
import { brokerOn, message, receive as receiveFrom, send as sendTo, settle } from './support/broker.ts'
import { eventually, testDatabase } from './support/postgres.ts'
import { startSink } from './support/sink.ts'

type Reason = { code: string; detail: string; until: string | null; message_id?: string; subscription?: string }
type Explanation = {
  state: string
  summary: string
  reasons: Reason[]
  attempts: number
  leased_by: {
    api_key: string | null
    api_key_name: string | null
    subscription: string | null
    gateway: string
  } | null
  timeline: { at: string | null; event: string; detail: string; expected: boolean }[]
}

let app: TestApp
/** A second gateway on the same database. */
let other: Broker
const auth = { authorization: `Bearer ${rootKey}` }
let made = 0

beforeAll(async () => {
  app = await testApp({ rootKey, open: false })
  other = brokerOn(app.database.url)
  await other.start()
})
afterAll(async () => {
  await other.stop(1000)
  await app.stop()
})

async function call(method: string, path: string, json?: unknown, headers: Record<string, string> = auth) {
  return await app.request(path, { method, headers, ...(json === undefined ? {} : { json }) })
}

async function queue(settings: Record<string, unknown> = {}): Promise<string> {
  const name = `q${++made}`
  expect((await call('PUT', `/v1/queues/${name}`, settings)).status).toBe(201)
  return name
}

async function send(name: string, query = '', body = 'x'): Promise<string> {
  const answer = await app.request(`/v1/queues/${name}/messages${query}`, { method: 'POST', headers: auth, body })
  return ((await answer.json()) as { id: string }).id
}

async function explain(name: string, id: string): Promise<Explanation> {
  const answer = await call('GET', `/v1/queues/${name}/messages/${id}/explain`)
  expect(answer.status).toBe(200)
  const found = (await answer.json()) as Explanation
  expect(found.summary).toBe(found.reasons.map(({ detail }) => detail).join(' '))
  return found
}

const codesOf = ({ reasons }: Explanation) => reasons.map(({ code }) => code)
const eventsOf = ({ timeline }: Explanation) => timeline.map(({ event }) => event)
const receive = (name: string, max = 1) => receiveFrom(app.broker, name, max, { waitMs: 5000 })
const nack = (receipt = '', delayMs: number | null = 0) => settle(app.broker, { action: 'nack', receipt, delayMs })

describe('a ready message', () => {
  test('is next, or has others before it; and nobody seems to come for it', async () => {
    const q = await queue()
    const first = await send(q)
    const second = await send(q)
    const urgent = await send(q, '?priority=9')
    expect(await explain(q, urgent)).toMatchObject({ state: 'ready', attempts: 0, leased_by: null })
    expect(codesOf(await explain(q, urgent))).toEqual(['next_in_line', 'no_consumer'])
    const last = await explain(q, second)
    expect(codesOf(last)).toEqual(['in_line', 'no_consumer'])
    expect(last.summary).toContain('2 messages are handed out before it')
    expect(eventsOf(last)).toEqual(['sent', 'expires'])
    await receive(q)
    expect(codesOf(await explain(q, first))).toEqual(['next_in_line'])
  })

  test('of a paused queue, of one with all its leases, of one that has lowered its attempts', async () => {
    const q = await queue({ max_leased: 1 })
    const id = await send(q)
    await send(q)
    await receive(q)
    const second = await send(q)
    expect(codesOf(await explain(q, second))).toEqual(['max_leased', 'in_line'])
    await call('POST', `/v1/queues/${q}/pause`)
    expect(codesOf(await explain(q, second))).toEqual(['queue_paused', 'max_leased', 'in_line'])
    expect((await explain(q, id)).state).toBe('leased')

    const spent = await queue()
    const tried = await send(spent)
    await nack((await receive(spent))[0]?.receipt)
    const again = await explain(spent, tried)
    expect(eventsOf(again)).toEqual(['sent', 'moved', 'attempts_made', 'expires'])
    expect(again.timeline[2]).toMatchObject({ at: null, detail: expect.stringContaining('once') })
    await call('PUT', `/v1/queues/${spent}`, { max_attempts: 1 })
    expect(codesOf(await explain(spent, tried))).toEqual(['attempts_spent'])
  })
})

const numberOf = (id: string): number => Number.parseInt(id.slice(4), 36)

describe('a message that waits for its time', () => {
  test('is delayed until then', async () => {
    const q = await queue()
    const id = await send(q, '?delay=1h')
    const found = await explain(q, id)
    expect([found.state, codesOf(found)]).toEqual(['delayed', ['delayed']])
    expect(found.reasons[0]?.detail).toMatch(/^It is delayed until \S+Z, 60 minutes from now\.$/)
    expect(Date.parse(found.reasons[0]?.until ?? '')).toBeGreaterThan(Date.parse(found.timeline[0]?.at ?? ''))
    expect(eventsOf(found)).toEqual(['sent', 'due', 'expires'])
    expect(found.timeline[1]).toMatchObject({ at: found.reasons[0]?.until, expected: true })
  })

  test('backs off after a failure', async () => {
    const q = await queue()
    const id = await send(q)
    await nack((await receive(q))[0]?.receipt, 3_600_000)
    const found = await explain(q, id)
    expect([found.state, codesOf(found), found.attempts]).toEqual(['delayed', ['backing_off'], 1])
    expect(eventsOf(found)).toEqual(['sent', 'moved', 'attempts_made', 'next_attempt', 'expires'])
  })
})

describe('a leased message', () => {
  test('is held by that API key, until then; through another gateway too', async () => {
    const q = await queue()
    const key = (await (
      await call('POST', '/v1/keys', { name: 'worker', scopes: [{ actions: ['receive'], queues: ['*'], topics: [] }] })
    ).json()) as { id: string; key: string }
    const id = await send(q)
    await send(q)
    const taken = await call('POST', `/v1/queues/${q}/receive?lease=1h`, undefined, {
      authorization: `Bearer ${key.key}`,
    })
    expect(taken.status).toBe(200)
    const found = await explain(q, id)
    expect([found.state, codesOf(found)]).toEqual(['leased', ['leased']])
    expect(found.leased_by).toMatchObject({ api_key: key.id, api_key_name: 'worker', subscription: null })
    expect(found.summary).toContain(`to the API key ${key.id} (worker)`)
    expect(eventsOf(found)).toEqual(['sent', 'leased', 'lease_ends', 'expires'])
    expect(found.timeline[2]?.at).toBe(found.reasons[0]?.until)
    const asked = await eventually(async () => (await other.admin.explainMessage(q, id)).holder)
    expect(asked).toMatchObject({ key: key.id, gateway: found.leased_by?.gateway })
  })

  test('by the root key, after a hand-over to a receiver that waited', async () => {
    const q = await queue()
    const waiting = call('POST', `/v1/queues/${q}/receive?wait=10s`)
    const id = await send(q)
    expect((await waiting).status).toBe(200)
    expect((await explain(q, id)).leased_by).toMatchObject({ api_key: 'root', api_key_name: null })
  })

  test('by nobody knows whom, when the gateway that leased it is gone; never by who held it before', async () => {
    const q = await queue()
    const id = await send(q)
    // This gateway still takes it for its own: the other has ended the lease.
    const [before] = await receive(q)
    await settle(other, { action: 'nack', receipt: before?.receipt ?? '', delayMs: 0 })
    const third = brokerOn(app.database.url, 3, { upkeep: false })
    await third.start()
    const [held] = await receiveFrom(third, q, 1, { leaseMs: 3_600_000, waitMs: 5000 })
    expect(held).toMatchObject({ id, attempt: 2 })
    await third.stop(1000)
    const found = await explain(q, id)
    expect([codesOf(found), found.leased_by]).toEqual([['leased'], null])
    expect(found.summary).toContain('only in the memory of the gateway that leased it')
  })
})

describe('without upkeep', () => {
  /** Nobody moves what is due, so that it can be looked at. */
  async function still() {
    const database = await testDatabase()
    const broker = brokerOn(database.url, 3, { upkeep: false })
    await broker.start()
    await broker.admin.putQueue('q', {})
    const stop = async () => {
      await broker.stop(1000)
      await database.drop()
    }
    const codes = async (id: string) => (await broker.admin.explainMessage('q', id)).reasons.map(({ code }) => code)
    return { broker, sql: database.sql, codes, stop }
  }

  test('a lease that is over, and one that nobody has taken back', async () => {
    const { broker, sql, codes, stop } = await still()
    const [id = ''] = await sendTo(broker, 'q', 'x')
    await receiveFrom(broker, 'q')
    await sql`update postern.messages set leased_until = now()`
    expect(await codes(id)).toEqual(['lease_over'])
    await sql`update postern.messages set leased_until = now() - interval '20 seconds'`
    expect(await codes(id)).toEqual(['upkeep_late'])
    expect((await broker.admin.explainMessage('q', id)).summary).toContain('20 seconds ago')
    await stop()
  })

  test('what is due and still lies with the delayed ones', async () => {
    const { broker, sql, codes, stop } = await still()
    const [id = ''] = await sendTo(broker, 'q', message('x', { delayMs: 60_000 }))
    await sql`update postern.scheduled set due_at = now()`
    expect(await codes(id)).toEqual(['delayed'])
    await sql`update postern.scheduled set due_at = now() - interval '20 seconds'`
    expect(await codes(id)).toEqual(['upkeep_late'])
    await stop()
  })

  test('what nobody gets any more because its time to live is over', async () => {
    const { broker, sql, codes, stop } = await still()
    const [id = ''] = await sendTo(broker, 'q', 'x')
    await sql`update postern.messages set expires_at = now()`
    expect(await codes(id)).toEqual(['expired'])
    const found = await broker.admin.explainMessage('q', id)
    expect([found.state, found.summary]).toEqual(['expired', expect.stringContaining('at the next look it is removed')])
    await broker.admin.putQueue('q', { deadLetterExpired: true })
    expect((await broker.admin.explainMessage('q', id)).summary).toContain('kept as a dead letter')
    await stop()
  })
})

describe('keys', () => {
  test('a message behind another of its key names it, and what it is doing', async () => {
    const q = await queue({ order: 'keyed' })
    const first = await send(q, '?key=a')
    const second = await send(q, '?key=a')
    const third = await send(q, '?key=a')
    const [held] = await receive(q)
    const found = await explain(q, third)
    expect(found).toMatchObject({ state: 'ready', reasons: [{ code: 'key_busy', message_id: first }] })
    expect(found.summary).toMatch(/is leased until \S+Z and must be done first, and 1 more waits before it/)
    const slow = await explain(q, await send(q, '?key=a&delay=1h'))
    expect([codesOf(slow), eventsOf(slow)]).toEqual([
      ['key_busy', 'delayed'],
      ['sent', 'due', 'expires'],
    ])
    await nack(held?.receipt, 3_600_000)
    // It goes back behind its key first, and moves up again a moment later.
    await eventually(async () => (await explain(q, second)).summary.includes('waits for its next attempt until'))
  })

  test('a key that a dead letter has stopped', async () => {
    const q = await queue({ order: 'keyed', on_dead: 'block' })
    const first = await send(q, '?key=a')
    const second = await send(q, '?key=a')
    const [held] = await receive(q)
    await settle(app.broker, { action: 'reject', receipt: held?.receipt ?? '', reason: 'broken' })
    const found = await explain(q, second)
    expect(found.reasons).toMatchObject([{ code: 'key_blocked', message_id: first }])
    expect(eventsOf(found)).toEqual(['sent', 'key_blocked', 'expires'])
  })

  test('on a fair queue keys take turns', async () => {
    const q = await queue({ fair: true })
    const ids: string[] = []
    for (let n = 0; n < 40; n++) ids.push(await send(q, '?key=a'))
    expect(codesOf(await explain(q, ids.at(-1) ?? ''))).toEqual(['key_turn'])
  })
})

describe('a dead letter', () => {
  test('says why, when, and after how many attempts', async () => {
    const q = await queue({ max_attempts: 1 })
    const id = await send(q)
    await nack((await receive(q))[0]?.receipt)
    const found = await explain(q, id)
    expect([found.state, codesOf(found), found.attempts]).toEqual(['dead', ['dead_max_attempts'], 1])
    expect(eventsOf(found)).toContain('died')
    const refused = await send(q)
    const receipt = (await receive(q))[0]?.receipt ?? ''
    await settle(app.broker, { action: 'reject', receipt, reason: 'no such customer' })
    expect((await explain(q, refused)).summary).toMatch(/after 1 attempt: a consumer refused it\. Last error: no such/)
  })

  test('is found from its own queue in the dead-letter queue that took it', async () => {
    const letters = await queue()
    const q = await queue({ max_attempts: 1, dead_letter_queue: letters })
    const id = await send(q)
    await nack((await receive(q))[0]?.receipt)
    const found = await explain(q, id)
    expect([found.state, found.reasons]).toMatchObject(['dead', [{ code: 'in_dead_letter_queue', queue: letters }]])
    expect(eventsOf(found)).toEqual(['sent', 'died'])
    const there = await explain(letters, id)
    expect([there.state, eventsOf(there)]).toEqual(['ready', ['sent', 'moved', 'died', 'expires']])
  })
})

describe('webhooks', () => {
  afterEach(async () => void (await app.database.sql`delete from postern.gateways where id = 'made'`))

  async function subscribed(settings: Record<string, unknown> = {}) {
    const topic = `t${++made}`
    await call('PUT', `/v1/topics/${topic}`)
    const answer = await call('POST', '/v1/subscriptions', { topic, url: 'http://127.0.0.1:9/', ...settings })
    const { id } = (await answer.json()) as { id: string }
    const publish = async () => {
      const answered = await app.request(`/v1/topics/${topic}/messages?routing_key=a.b`, {
        ...{ method: 'POST', headers: auth, body: '{}' },
      })
      return ((await answered.json()) as { id: string }).id
    }
    return { id, publish }
  }
  /** As if a gateway delivered for it. */
  const serve = (id: string, more = {}) => app.database.sql`
    with g as (insert into postern.gateways (id, alive_until) values ('made', now() + interval '1 hour') on conflict (id) do update set alive_until = excluded.alive_until)
    update postern.subscriptions set ${app.database.sql({ owner: 'made', ...more })} where name = ${id}`

  test('nobody delivers; the endpoint holds; its circuit is open; it is disabled', async () => {
    const { id, publish } = await subscribed()
    const published = await publish()
    const found = await explain(id, published)
    expect(found.reasons).toMatchObject([{ code: 'subscription_unserved', subscription: id }])
    expect(eventsOf(found)).toEqual(['published', 'sent', 'expires'])
    const heldUntil = new Date(Date.now() + 3_600_000)
    await serve(id, { held_until: heldUntil })
    expect((await explain(id, published)).reasons).toMatchObject([
      { code: 'endpoint_held', subscription: id, until: heldUntil.toISOString() },
    ])
    await serve(id, { circuit: 'open', failures: 12, failing_since: heldUntil })
    expect((await explain(id, published)).summary).toMatch(/failed 12 times in a row, without success since/)
    await call('POST', `/v1/subscriptions/${id}/disable`)
    expect(codesOf(await explain(id, published))).toEqual(['subscription_disabled'])
  })

  test('its rate, with many before it; its concurrency', async () => {
    const { id, publish } = await subscribed({ rate: '1/m', concurrency: 1 })
    await publish()
    const published = await publish()
    await serve(id)
    expect(codesOf(await explain(id, published))).toEqual(['rate_limited', 'in_line'])
    await app.database.sql`update postern.messages set lease_token = 1, leased_until = now() + interval '1 hour'
      where id < ${numberOf(published)} and queue_id = (select id from postern.queues where name = ${id})`
    expect(codesOf(await explain(id, published))).toEqual(['concurrency_full'])
  })

  test('of a queue that others consume as well, one that is held is named, and a receive gets it all the same', async () => {
    const q = await queue()
    const id = await send(q)
    const held = await call('POST', '/v1/subscriptions', { queue: q, url: 'http://127.0.0.1:9/' })
    expect(held.status).toBe(201)
    expect(codesOf(await explain(q, id))).toEqual(['subscription_unserved'])
    await sendTo(other, q, 'later')
    await receive(q)
    const [next] = (await app.broker.admin.browseMessages(q, 'ready', { limit: 1, cursor: null })).data
    expect(codesOf(await explain(q, next?.id ?? ''))).toEqual(['subscription_unserved', 'next_in_line'])
  })

  test('each call is in the timeline, and a message that a webhook took is still explained', async () => {
    const sink = await startSink((hit, response) => {
      response.writeHead(hit.headers['postern-attempt'] === '1' ? 500 : 204).end()
    })
    const { id, publish } = await subscribed({ url: sink.url, retry: { schedule: ['1s'] } })
    const push = createPush({ broker: app.broker, allowPrivate: true, version: 'test', log: () => {} })
    push.start()
    const published = await publish()
    const failed = await eventually(async () => {
      const now = await explain(id, published)
      return codesOf(now)[0] === 'backing_off' && eventsOf(now).includes('attempt_failed') ? now : null
    })
    expect(failed.summary).toContain('The endpoint answered 500.')
    const done = await eventually(async () => {
      const answer = await call('GET', `/v1/queues/${id}/messages/${published}/explain`)
      const now = answer.ok ? ((await answer.json()) as Explanation) : null
      return now?.state === 'gone' && eventsOf(now).includes('attempt_succeeded') ? now : null
    })
    expect(done.reasons).toMatchObject([{ code: 'delivered', subscription: id }])
    expect(eventsOf(done)).toEqual(['published', 'attempt_failed', 'attempt_succeeded'])
    await push.stop(1000)
    await sink.close()
  }, 20_000)

  test('one that is under way is held by the webhook', async () => {
    let answer = (): void => {}
    const sink = await startSink(async (_hit, response) => {
      await new Promise<void>((resolve) => {
        answer = resolve
      })
      response.writeHead(204).end()
    })
    const { id, publish } = await subscribed({ url: sink.url })
    const push = createPush({ broker: app.broker, allowPrivate: true, version: 'test', log: () => {} })
    push.start()
    const published = await publish()
    const held = await eventually(async () => (await explain(id, published)).leased_by)
    expect(held).toMatchObject({ subscription: id, api_key: null })
    await eventually(() => sink.hits.length === 1)
    answer()
    await push.stop(1000)
    await sink.close()
  }, 20_000)
})

test('what is not known is 404 and says that what is done leaves no trace; without the scope it is 403', async () => {
  const q = await queue()
  const id = await send(q)
  const [held] = await receive(q)
  await settle(app.broker, { action: 'ack', receipt: held?.receipt ?? '' })
  for (const one of [id, 'msg_zzzzzzzzzzz', 'nonsense'])
    expect(await refusal(await call('GET', `/v1/queues/${q}/messages/${one}/explain`))).toMatchObject({
      ...{ status: 404, code: 'message_not_found' },
    })
  expect(await refusal(await call('GET', `/v1/queues/none/messages/${id}/explain`))).toMatchObject({
    code: 'queue_not_found',
  })
  const scopes = [{ actions: ['send', 'receive', 'manage'], queues: ['*'], topics: [] }]
  const { key: secret } = (await (await call('POST', '/v1/keys', { name: 'blind', scopes })).json()) as { key: string }
  const answer = await call('GET', `/v1/queues/${q}/messages/${id}/explain`, undefined, {
    authorization: `Bearer ${secret}`,
  })
  expect(await refusal(answer)).toMatchObject({ status: 403 })
})
