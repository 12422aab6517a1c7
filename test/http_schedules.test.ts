/** Schedules over HTTP: what they take and answer, and which keys may touch them. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, rootKey, type TestApp, testApp } from './support/app.ts'
import { eventually } from './support/postgres.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp()
  await app.request('/v1/queues/q', { method: 'PUT' })
  await app.request('/v1/topics/t', { method: 'PUT' })
})
afterAll(() => app.stop())

type Fields = Record<string, unknown>
const read = async (answer: Response) => (await answer.json()) as Fields
const put = (name: string, json: unknown) => app.request(`/v1/schedules/${name}`, { method: 'PUT', json })
const get = (name: string) => app.request(`/v1/schedules/${name}`)
const post = (name: string, action: string) => app.request(`/v1/schedules/${name}/${action}`, { method: 'POST' })
const yearly = { cron: '0 0 1 1 *', queue: 'q', body: 'x' }

describe('/v1/schedules/{name}', () => {
  test('a PUT creates a schedule, and replaces it whole', async () => {
    const first = await put('whole', {
      ...{
        cron: '30 8 * * MON-FRI',
        timezone: 'Europe/Berlin',
        queue: 'q',
        body: { n: 1 },
        headers: { Tenant: 'acme' },
      },
      ...{ delay: '5m', ttl: '1d', priority: 9, key: 'k', misfire: 'once', content_type: 'application/x+json' },
    })
    expect(first.status).toBe(201)
    expect(first.headers.get('location')).toBe('/v1/schedules/whole')
    const created = await read(first)
    expect(created).toEqual({
      ...{ name: 'whole', cron: '30 8 * * MON-FRI', timezone: 'Europe/Berlin', queue: 'q', body: '{"n":1}' },
      ...{
        content_type: 'application/x+json',
        headers: { tenant: 'acme' },
        key: 'k',
        priority: 9,
        delay: '5m',
        ttl: '1d',
      },
      ...{ misfire: 'once', paused: false, next_fires: Array(5).fill(expect.any(String)), last_fire: null },
      ...{ created_at: expect.any(String), updated_at: expect.any(String) },
    })
    const shown = new Intl.DateTimeFormat('en-GB', {
      timeZone: 'Europe/Berlin',
      weekday: 'short',
      timeStyle: undefined,
    })
    for (const time of created.next_fires as string[]) expect(shown.format(new Date(time))).not.toMatch(/Sat|Sun/)

    const second = await put('whole', { cron: '@hourly', topic: 't', routing_key: 'a.b', body_base64: '/w==' })
    expect(second.status).toBe(200)
    expect(await read(second)).toEqual({
      ...{ name: 'whole', cron: '@hourly', timezone: 'UTC', topic: 't', routing_key: 'a.b', body_base64: '/w==' },
      ...{ content_type: 'application/octet-stream', headers: {}, key: null, priority: 5, delay: null, ttl: null },
      ...{ misfire: 'skip', paused: false, next_fires: Array(5).fill(expect.any(String)), last_fire: null },
      ...{ created_at: created.created_at, updated_at: expect.any(String) },
    })
    expect(await read(await get('whole'))).toMatchObject({ cron: '@hourly' })
  })

  test('a body that is JSON is kept as the text that was sent', async () => {
    const body = '{"cron":"@daily","body":{"n": 1.00, "big":12345678901234567890},"queue":"q"}'
    const answer = await app.request('/v1/schedules/exact', {
      ...{ method: 'PUT', body: Buffer.from(body), headers: { 'content-type': 'application/json' } },
    })
    expect(await read(answer)).toMatchObject({
      body: '{"n": 1.00, "big":12345678901234567890}',
      content_type: 'application/json',
    })
    expect(await read(await put('null', { ...yearly, body: null }))).toMatchObject({ body: 'null' })
    expect(await read(await put('text', yearly))).toMatchObject({
      body: 'x',
      content_type: 'text/plain; charset=utf-8',
    })
  })

  test.each<[unknown, ...string[]]>([
    [{}, '/cron'],
    [[], ''],
    ['text', ''],
    [{ ...yearly, cron: undefined }, '/cron'],
    [{ ...yearly, cron: 7 }, '/cron'],
    [{ ...yearly, cron: 'often' }, '/cron'],
    [{ ...yearly, cron: '61 * * * *' }, '/cron'],
    [{ ...yearly, cron: '@every 10ms' }, '/cron'],
    [{ ...yearly, cron: '0 0 30 2 *' }, '/cron'],
    [{ ...yearly, cron: '0 0 30 2 *\u0000' }, '/cron'],
    [{ ...yearly, timezone: 'Europe/Bonn' }, '/timezone'],
    [{ ...yearly, timezone: '+02:00' }, '/timezone'],
    [{ ...yearly, timezone: null }, '/timezone'],
    [{ ...yearly, queue: undefined }, '/queue'],
    [{ ...yearly, queue: 'nowhere' }, '/queue'],
    [{ ...yearly, queue: '../q' }, '/queue'],
    [{ ...yearly, topic: 't' }, '/topic'],
    [{ ...yearly, queue: undefined, topic: 'nowhere' }, '/topic'],
    [{ ...yearly, routing_key: 'a' }, '/routing_key'],
    [{ ...yearly, queue: undefined, topic: 't', routing_key: 'a\u0000' }, '/routing_key'],
    [{ ...yearly, body: undefined }, '/body'],
    [{ ...yearly, body_base64: '' }, '/body'],
    [{ ...yearly, body: undefined, body_base64: '?' }, '/body_base64'],
    [{ ...yearly, content_type: '' }, '/content_type'],
    [{ ...yearly, headers: { 'a b': 'c', d: 1 } }, '/headers/a b', '/headers/d'],
    [{ ...yearly, delay: '11000d' }, '/delay'],
    [{ ...yearly, ttl: 'soon' }, '/ttl'],
    [{ ...yearly, priority: 10 }, '/priority'],
    [{ ...yearly, key: '' }, '/key'],
    [{ ...yearly, misfire: 'all' }, '/misfire'],
    [{ ...yearly, paused: 'yes' }, '/paused'],
    [{ ...yearly, deliver_at: '2030-01-01T00:00:00Z' }, '/deliver_at'],
    [{ ...yearly, dedup_id: 'x' }, '/dedup_id'],
    [{ ...yearly, next_fires: [] }, '/next_fires'],
  ])('%j is refused by name', async (json, ...pointers) => {
    expect(await refusal(await put('wrong', json))).toEqual(invalidField(...pointers))
  })

  test('malformed JSON is 400, another type 415, a monstrous body 413, a bad name 422', async () => {
    const send = (body: string, type: string) =>
      app.request('/v1/schedules/x', { method: 'PUT', body, headers: { 'content-type': type } })
    expect(await refusal(await send('{', 'application/json'))).toMatchObject({ status: 400, code: 'malformed_json' })
    expect(await refusal(await send('{}', 'text/plain'))).toMatchObject({ status: 415 })
    expect(await refusal(await send('', 'application/json'))).toMatchObject(invalidField('/cron'))
    expect(await refusal(await send(' '.repeat(10 * 1024 * 1024 + 1), ''))).toMatchObject({ status: 413 })
    const large = { ...yearly, body: 'x'.repeat(1024 * 1024 + 1) }
    expect(await refusal(await put('large', large))).toMatchObject({ status: 413, code: 'body_too_large' })
    for (const name of ['a%2Fb', '-a', 'a'.repeat(81)])
      for (const call of [() => put(name, yearly), () => get(name), () => post(name, 'run')])
        expect(await refusal(await call())).toEqual(invalidField('path/name'))
  })

  test("a subscription's backlog takes no schedule", async () => {
    const json = { topic: 't', url: 'https://example.com' }
    const made = await read(await app.request('/v1/subscriptions', { method: 'POST', json }))
    const refused = await put('backlog', { ...yearly, queue: made.backlog_queue })
    expect(await refusal(refused)).toEqual(invalidField('/queue'))
    await app.request(`/v1/subscriptions/${made.id}`, { method: 'DELETE' })
  })

  test('an unknown schedule is 404 everywhere, and a deleted one is unknown', async () => {
    await put('doomed', yearly)
    const remove = () => app.request('/v1/schedules/doomed', { method: 'DELETE' })
    expect((await remove()).status).toBe(204)
    const actions = ['pause', 'resume', 'run'].map((action) => () => post('doomed', action))
    for (const call of [remove, () => get('doomed'), ...actions])
      expect(await refusal(await call())).toMatchObject({ status: 404, code: 'schedule_not_found' })
  })

  test('pause and resume, by their calls and by PUT', async () => {
    await put('pausing', yearly)
    const paused = await post('pausing', 'pause')
    expect(paused.status).toBe(200)
    expect(await read(paused)).toMatchObject({ paused: true, next_fires: [] })
    expect(await read(await put('pausing', yearly))).toMatchObject({ paused: true })
    const resumed = await read(await post('pausing', 'resume'))
    expect(resumed).toMatchObject({ paused: false })
    expect(resumed.next_fires).toHaveLength(5)
    expect(await read(await put('pausing', { ...yearly, paused: true }))).toMatchObject({
      paused: true,
      next_fires: [],
    })
    expect(await read(await put('pausing', { ...yearly, paused: false }))).toMatchObject({ paused: false })
  })

  test('run sends now and answers with the id; what refuses it is answered and kept', async () => {
    await app.request('/v1/queues/small', { method: 'PUT', json: { max_messages: 1 } })
    await put('runs', { ...yearly, queue: 'small', body: 'now', headers: { a: 'b' } })
    const before = await read(await get('runs'))
    const ran = await post('runs', 'run')
    expect(ran.status).toBe(202)
    const { id, at } = await read(ran)
    const after = await read(await get('runs'))
    expect(after.last_fire).toEqual({ at, message_id: id, error: null })
    expect(after.next_fires).toEqual(before.next_fires)
    expect(await refusal(await post('runs', 'run'))).toMatchObject({ status: 429, code: 'queue_full' })
    expect((await read(await get('runs'))).last_fire).toMatchObject({ message_id: null, error: expect.any(String) })
    expect(await app.receive('small')).toMatchObject([
      { id, body: 'now', headers: { a: 'b', 'postern-schedule': 'runs', 'postern-fire-time': at } },
    ])
    await app.request('/v1/queues/small?force=true', { method: 'DELETE' })
    expect(await refusal(await post('runs', 'run'))).toMatchObject({ status: 404, code: 'queue_not_found' })
    await app.request('/v1/topics/brief', { method: 'PUT' })
    await put('topical', { cron: '@daily', topic: 'brief', body: 'x' })
    expect((await post('topical', 'run')).status).toBe(202)
    await app.request('/v1/topics/brief', { method: 'DELETE' })
    expect(await refusal(await post('topical', 'run'))).toMatchObject({ status: 404, code: 'topic_not_found' })
  })

  test('a page of the list has 8 MiB of bodies at the most, and all pages have every one', async () => {
    const bodyOf = (n: number) => String.fromCharCode(97 + n).repeat(1_000_000)
    for (let n = 0; n < 18; n++)
      await app.request(`/v1/schedules/large-${String(n).padStart(2, '0')}`, {
        method: 'PUT',
        json: { cron: '0 0 1 1 *', queue: 'q', body: bodyOf(n), paused: true },
      })
    const names: string[] = []
    const sizes: number[] = []
    for (let cursor = ''; ; ) {
      const answer = await app.request(`/v1/schedules?limit=1000${cursor}`)
      const page = (await answer.json()) as { data: { name: string; body?: string }[]; next_cursor: string | null }
      names.push(...page.data.map(({ name }) => name).filter((name) => name.startsWith('large')))
      sizes.push(page.data.reduce((sum, { body }) => sum + (body ?? '').length, 0))
      if (page.next_cursor === null) break
      cursor = `&cursor=${page.next_cursor}`
    }
    expect(Math.max(...sizes)).toBeLessThanOrEqual(8 * 1024 * 1024)
    expect(names).toEqual(Array.from({ length: 18 }, (_, n) => `large-${String(n).padStart(2, '0')}`))
    for (const name of names) await app.request(`/v1/schedules/${name}`, { method: 'DELETE' })
  }, 60_000)

  test('it fires by itself', async () => {
    await app.request('/v1/queues/ticks', { method: 'PUT' })
    await put('ticks', { cron: '* * * * * *', queue: 'ticks', body: 'tick' })
    const [message] = await eventually(async () => {
      const some = await app.receive('ticks', '?wait=5s')
      return some.length > 0 && some
    })
    expect(message).toMatchObject({ body: 'tick', headers: { 'postern-schedule': 'ticks' } })
    await app.request('/v1/schedules/ticks', { method: 'DELETE' })
  })
})

test('the list is by name, in pages', async () => {
  for (const name of ['page1', 'page2', 'page3']) await put(name, yearly)
  const names: string[] = []
  let cursor: string | null = ''
  do {
    const answer = await app.request(`/v1/schedules?limit=2${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`)
    expect(answer.status).toBe(200)
    const page = (await answer.json()) as { data: { name: string }[]; next_cursor: string | null }
    names.push(...page.data.map(({ name }) => name))
    cursor = page.next_cursor
  } while (cursor)
  expect(names).toEqual([...new Set(names)].sort())
  expect(names).toEqual(expect.arrayContaining(['page1', 'page2', 'page3']))
  expect(await refusal(await app.request('/v1/schedules?wat=1'))).toEqual(invalidField('query/wat'))
  expect(await refusal(await app.request('/v1/schedules?cursor=made-up'))).toMatchObject({ status: 422 })
  const wrongMethod = await app.request('/v1/schedules/page1', { method: 'PATCH' })
  expect(wrongMethod.status).toBe(405)
})

describe('scopes', () => {
  let keyed: TestApp
  beforeAll(async () => {
    keyed = await testApp({ rootKey, open: false })
    for (const path of ['/v1/queues/mine', '/v1/queues/other', '/v1/topics/mine']) await asRoot(path, { method: 'PUT' })
    for (const queue of ['mine', 'other'])
      await asRoot(`/v1/schedules/for.${queue}`, { method: 'PUT', json: { ...yearly, queue } })
    await asRoot('/v1/schedules/for.topic', { method: 'PUT', json: { cron: '@daily', topic: 'mine', body: 'x' } })
  })
  afterAll(() => keyed.stop())
  const as = (key: string, path: string, init: { method?: string; json?: unknown } = {}) =>
    keyed.request(path, { ...init, headers: { authorization: `Bearer ${key}` } })
  const asRoot = (path: string, init: { method?: string; json?: unknown } = {}) => as(rootKey, path, init)
  async function keyFor(...scopes: Fields[]): Promise<string> {
    const answer = await asRoot('/v1/keys', { method: 'POST', json: { name: 'test', scopes } })
    return String((await read(answer)).key)
  }

  const changes = ['pause', 'resume', 'run']

  test('to change one takes manage on its target, which implies sending; to look takes read', async () => {
    for (const [place, name] of [
      ['queues', 'for.mine'],
      ['topics', 'for.topic'],
    ] as const) {
      const manager = await keyFor({ actions: ['manage'], [place]: ['mine'] })
      const reader = await keyFor({ actions: ['read'], [place]: ['mine'] })
      const sender = await keyFor({ actions: ['send', 'receive'], [place]: ['mine'] })
      for (const action of changes) {
        const path = `/v1/schedules/${name}/${action}`
        expect((await as(manager, path, { method: 'POST' })).status, action).toBeLessThan(300)
        expect(await refusal(await as(reader, path, { method: 'POST' }))).toMatchObject({ status: 403 })
        expect(await refusal(await as(sender, path, { method: 'POST' }))).toMatchObject({ status: 404 })
      }
      expect((await as(reader, `/v1/schedules/${name}`)).status).toBe(200)
      expect(await refusal(await as(manager, `/v1/schedules/${name}`))).toMatchObject({ status: 403 })
      expect(await refusal(await as(sender, `/v1/schedules/${name}`))).toMatchObject({ status: 404 })
      expect(await refusal(await as(reader, `/v1/schedules/${name}`, { method: 'DELETE' }))).toMatchObject({
        status: 403,
      })
    }
  })

  test('nobody takes over a schedule for what they may not manage, nor leads one there', async () => {
    const manager = await keyFor({ actions: ['manage', 'read'], queues: ['mine'] })
    const steal = await as(manager, '/v1/schedules/for.other', { method: 'PUT', json: { ...yearly, queue: 'mine' } })
    expect(await refusal(steal)).toMatchObject({ status: 403, code: 'forbidden' })
    const lead = await as(manager, '/v1/schedules/for.mine', { method: 'PUT', json: { ...yearly, queue: 'other' } })
    expect(await refusal(lead)).toMatchObject({ status: 403, code: 'forbidden' })
    const absent = await as(manager, '/v1/schedules/new', { method: 'PUT', json: { ...yearly, queue: 'absent' } })
    expect(await refusal(absent)).toMatchObject({ status: 403 })
    expect(await read(await asRoot('/v1/schedules/for.other'))).toMatchObject({ queue: 'other' })
    const own = await as(manager, '/v1/schedules/own', { method: 'PUT', json: { ...yearly, queue: 'mine' } })
    expect(own.status).toBe(201)
    expect((await as(manager, '/v1/schedules/own', { method: 'DELETE' })).status).toBe(204)
    const gone = await as(manager, '/v1/schedules/for.other', { method: 'DELETE' })
    expect(await refusal(gone)).toMatchObject({ status: 404, code: 'schedule_not_found' })
  })

  test('a list shows only what may be read', async () => {
    const names = async (key: string) => {
      const { data } = (await (await as(key, '/v1/schedules')).json()) as { data: { name: string }[] }
      return data.map(({ name }) => name)
    }
    expect(await names(await keyFor({ actions: ['read'], queues: ['mine'] }))).toEqual(['for.mine'])
    expect(await names(await keyFor({ actions: ['read'], topics: ['*'] }))).toEqual(['for.topic'])
    const blind = await keyFor({ actions: ['send', 'manage'], queues: ['*'] })
    expect(await refusal(await as(blind, '/v1/schedules'))).toMatchObject({ status: 403, code: 'forbidden' })
  })

  test('without a key everything is 401', async () => {
    for (const [method, path] of [
      ...[...['GET', 'PUT', 'DELETE'].map((method) => [method, '/for.mine']), ['GET', '']],
      ...changes.map((action) => ['POST', `/for.mine/${action}`]),
    ])
      expect((await keyed.request(`/v1/schedules${path}`, { method: String(method) })).status).toBe(401)
  })
})
