/** Webhook subscriptions over HTTP: what can be set, changed and looked at. Nothing delivers here: backlogs only grow. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BrokerError } from '../src/model/index.ts'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'

type Fields = Record<string, unknown>
const url = 'https://example.com/hooks'
const path = '/v1/subscriptions'

let app: TestApp
beforeAll(async () => {
  app = await testApp()
  for (const name of ['work', 'other']) {
    await app.request(`/v1/queues/${name}`, { method: 'PUT' })
    await app.request(`/v1/topics/${name}`, { method: 'PUT' })
  }
})
afterAll(() => app.stop())

const read = async (answer: Response) => (await answer.json()) as Fields
const create = (json: unknown, on = app) => on.request(path, { method: 'POST', json })
/** A new one; on the topic `work` unless `more` says otherwise. */
async function subscription(more: Fields = {}): Promise<Fields & { id: string; backlog_queue: string }> {
  const answer = await create({ url, ...('queue' in more ? {} : { topic: 'work' }), ...more })
  expect(answer.status).toBe(201)
  return (await read(answer)) as Fields & { id: string; backlog_queue: string }
}
const patch = (id: string, json: unknown) => app.request(`${path}/${id}`, { method: 'PATCH', json })
const look = async (id: string) => read(await app.request(`${path}/${id}`))
async function publish(body: string, query = ''): Promise<Response> {
  const answer = await app.request(`/v1/topics/work/messages${query}`, { method: 'POST', body: Buffer.from(body) })
  expect(answer.status).toBe(202)
  return answer
}
const bodiesIn = async (queue: string, state = 'ready') => {
  const answer = await app.request(`/v1/queues/${queue}/messages?state=${state}`)
  return ((await answer.json()) as { data: { body: string }[] }).data.map(({ body }) => body)
}

describe('POST /v1/subscriptions', () => {
  test('on a topic: 201 with the defaults, a secret and a backlog of its own', async () => {
    const answer = await create({ topic: 'work', url })
    expect(answer.status).toBe(201)
    const created = await read(answer)
    expect(answer.headers.get('location')).toBe(`${path}/${created.id}`)
    expect(created).toEqual({
      id: expect.stringMatching(/^sub_/),
      name: null,
      topic: 'work',
      pattern: '#',
      filter: null,
      backlog_queue: expect.any(String),
      url,
      format: 'raw',
      headers: {},
      timeout: '30s',
      concurrency: 10,
      rate: null,
      retry: { schedule: ['5s', '5m', '30m', '2h', '5h', '10h', '14h', '20h', '1d'] },
      max_attempts: null,
      status: 'enabled',
      disabled_reason: null,
      circuit: 'closed',
      consecutive_failures: 0,
      failing_since: null,
      held_until: null,
      counts: { ready: 0, delayed: 0, leased: 0, dead: 0 },
      created_at: expect.any(String),
      updated_at: expect.any(String),
      secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/]{32}$/),
    })
    const { secret, ...shown } = created
    expect(await look(String(created.id))).toEqual(shown)
    expect(JSON.stringify(app.lines)).not.toContain(secret)
    expect((await subscription()).secret).not.toBe(secret)
  })

  test('on a queue: no backlog, no interest', async () => {
    const created = await subscription({ queue: 'work' })
    expect(created.queue).toBe('work')
    for (const field of ['topic', 'pattern', 'filter', 'backlog_queue']) expect(created).not.toHaveProperty(field)
  })

  test('every setting is kept', async () => {
    const settings = {
      name: 'billing',
      pattern: 'orders.#',
      filter: { headers: { tenant: ['a'] } },
      format: 'envelope',
      timeout: '10s',
      concurrency: 3,
      rate: '600/m',
      max_attempts: 7,
    }
    const headers = { Authorization: 'Bearer x', 'X-Y': '' }
    const created = await subscription({ ...settings, headers, retry: { schedule: [1, '500ms'] } })
    expect(created).toMatchObject({
      ...settings,
      headers: { authorization: 'Bearer x', 'x-y': '' },
      retry: { schedule: ['1s', '500ms'] },
    })
    const bare = { timeout: 300, retry: { base: '1s' }, rate: '5/h', format: 'cloudevents' }
    expect(await subscription(bare)).toMatchObject({
      timeout: '5m',
      retry: { base: '1s', max: '1d', factor: 2 },
      rate: '5/h',
      format: 'cloudevents',
    })
    expect(await subscription({ retry: { base: '2d' }, rate: '1/s' })).toMatchObject({
      retry: { base: '2d', max: '2d', factor: 2 },
      rate: '1/s',
    })
    const whole = { base: '1m', max: '1h', factor: 1.5 }
    expect(await subscription({ retry: whole })).toMatchObject({ retry: whole })
    const nulls = { name: null, filter: null, rate: null, retry: null, max_attempts: null }
    expect(await subscription(nulls)).toMatchObject({ ...nulls, retry: { schedule: expect.any(Array) } })
  })

  const many = Object.fromEntries(Array.from({ length: 33 }, (_, at) => [`x-${at}`, 'v']))
  const topic = 'work'
  test.each<[string, Fields, string[]]>([
    ['no source', { url }, ['/queue']],
    ['two sources', { url, topic, queue: 'work' }, ['/queue']],
    ['an unknown queue', { url, queue: 'nowhere' }, ['/queue']],
    ['an unknown topic', { url, topic: 'nowhere' }, ['/topic']],
    ['a queue that is no name', { url, queue: '../x' }, ['/queue']],
    ['a topic that is no name', { url, topic: 7 }, ['/topic']],
    ['a pattern on a queue', { url, queue: 'work', pattern: '#' }, ['/pattern']],
    ['a filter on a queue', { url, queue: 'work', filter: null }, ['/filter']],
    ['a wrong pattern', { url, topic, pattern: 'a'.repeat(256) }, ['/pattern']],
    ['a wrong filter', { url, topic, filter: { body: { a: [{ wat: 1 }] } } }, ['/filter/body/a/0/wat']],
    ['no url', { topic }, ['/url']],
    ['a url that is no text', { topic, url: 7 }, ['/url']],
    ['a relative url', { topic, url: '/hooks' }, ['/url']],
    ['another scheme', { topic, url: 'ftp://example.com' }, ['/url']],
    ['credentials in the url', { topic, url: 'https://a:b@example.com' }, ['/url']],
    ['an empty name', { url, topic, name: '' }, ['/name']],
    ['a long name', { url, topic, name: 'x'.repeat(256) }, ['/name']],
    ['another format', { url, topic, format: 'xml' }, ['/format']],
    ['no format', { url, topic, format: null }, ['/format']],
    ['headers that are no object', { url, topic, headers: [] }, ['/headers']],
    ['a header that is no text', { url, topic, headers: { a: 1 } }, ['/headers/a']],
    ['a header that is no name', { url, topic, headers: { 'a/b~': 'x' } }, ['/headers/a~1b~0']],
    ['a header of ours', { url, topic, headers: { 'Webhook-Id': 'x' } }, ['/headers/Webhook-Id']],
    ['a header of the connection', { url, topic, headers: { host: 'x' } }, ['/headers/host']],
    ['a header with a line break', { url, topic, headers: { a: 'x\r\ny' } }, ['/headers/a']],
    ['a header twice', { url, topic, headers: { a: 'x', A: 'y' } }, ['/headers/A']],
    ['too many headers', { url, topic, headers: many }, ['/headers']],
    ['too large headers', { url, topic, headers: { a: 'x'.repeat(16 * 1024) } }, ['/headers']],
    ['a short timeout', { url, topic, timeout: '999ms' }, ['/timeout']],
    ['a long timeout', { url, topic, timeout: 301 }, ['/timeout']],
    ['no concurrency', { url, topic, concurrency: 0 }, ['/concurrency']],
    ['a broken concurrency', { url, topic, concurrency: 1.5 }, ['/concurrency']],
    ['a rate without a unit', { url, topic, rate: '10' }, ['/rate']],
    ['a rate with a long unit', { url, topic, rate: '10/1s' }, ['/rate']],
    ['no rate at all', { url, topic, rate: '0/s' }, ['/rate']],
    ['a monstrous rate', { url, topic, rate: '100001/s' }, ['/rate']],
    ['a rate that is a number', { url, topic, rate: 10 }, ['/rate']],
    ['a retry that is no object', { url, topic, retry: '5s' }, ['/retry']],
    ['an empty retry', { url, topic, retry: {} }, ['/retry']],
    ['an empty schedule', { url, topic, retry: { schedule: [] } }, ['/retry/schedule']],
    ['a long schedule', { url, topic, retry: { schedule: Array(101).fill(1) } }, ['/retry/schedule']],
    [
      'a wrong wait',
      { url, topic, retry: { schedule: [1, 'soon', '31d'] } },
      ['/retry/schedule/1', '/retry/schedule/2'],
    ],
    ['both kinds of retry', { url, topic, retry: { schedule: [1], base: 1 } }, ['/retry/base']],
    ['a retry with no base', { url, topic, retry: { max: 1 } }, ['/retry']],
    ['a max below the base', { url, topic, retry: { base: '1m', max: 1 } }, ['/retry/max']],
    ['a small factor', { url, topic, retry: { base: 1, factor: 0.5 } }, ['/retry/factor']],
    ['an unknown field of retry', { url, topic, retry: { base: 1, jitter: 0 } }, ['/retry/jitter']],
    ['no attempts', { url, topic, max_attempts: 0 }, ['/max_attempts']],
    ['too many attempts', { url, topic, max_attempts: 1001 }, ['/max_attempts']],
    ['unknown fields', { url, topic, secret: 'x', wat: 1 }, ['/secret', '/wat']],
  ])('%s is refused by name', async (_, json, pointers) => {
    expect(await refusal(await create(json))).toEqual(invalidField(...pointers))
  })

  test.each([[null], [[]], ['text']])('%j is no subscription', async (json) => {
    expect(await refusal(await create(json))).toEqual(invalidField(''))
  })

  test('malformed JSON is 400, another type 415, a monstrous body 413', async () => {
    const send = (body: string, type: string) =>
      app.request(path, { method: 'POST', body, headers: { 'content-type': type } })
    expect(await refusal(await send('{', 'application/json'))).toMatchObject({ status: 400, code: 'malformed_json' })
    expect(await refusal(await send('{}', 'text/plain'))).toMatchObject({ status: 415 })
    expect(await refusal(await send(' '.repeat(10 * 1024 * 1024 + 1), ''))).toMatchObject({ status: 413 })
  })

  test('exactly 32 headers, and one called __proto__, are taken', async () => {
    const { 'x-32': _, ...most } = many
    expect(await subscription({ headers: most })).toMatchObject({ headers: most })
    const headers = JSON.parse('{"__proto__":"x"}') as Fields
    const answer = await create({ url, topic, headers })
    expect(await answer.text()).toContain('"headers":{"__proto__":"x"}')
  })

  test('the secrets of two are not alike, and no list shows one', async () => {
    const one = await subscription()
    const list = await (await app.request(`${path}?limit=1000`)).text()
    expect(list).toContain(one.id)
    expect(list).not.toContain('whsec_')
  })
})

describe('looking at subscriptions', () => {
  test('they are listed in the order of creation, by queue or by topic', async () => {
    await app.request('/v1/topics/listed', { method: 'PUT' })
    await app.request('/v1/queues/listed', { method: 'PUT' })
    const ids: string[] = []
    for (let count = 0; count < 3; count++) ids.push((await subscription({ topic: 'listed' })).id)
    const onQueue = await subscription({ queue: 'listed' })
    type Page = { data: { id: string }[]; next_cursor: string | null }
    const list = async (query: string) => (await (await app.request(`${path}${query}`)).json()) as Page
    const idsOf = ({ data }: Page) => data.map(({ id }) => id)
    const first = await list('?topic=listed&limit=2')
    expect(idsOf(first)).toEqual(ids.slice(0, 2))
    const next = await list(`?topic=listed&limit=2&cursor=${encodeURIComponent(first.next_cursor ?? '')}`)
    expect([idsOf(next), next.next_cursor]).toEqual([ids.slice(2), null])
    expect(idsOf(await list('?queue=listed'))).toEqual([onQueue.id])
    expect(idsOf(await list('?queue=absent'))).toEqual([])
    expect(idsOf(await list('?limit=1000'))).toEqual(expect.arrayContaining([...ids, onQueue.id]))
  })

  test.each([
    ['limit=0', 'query/limit'],
    ['topic=-x', 'query/topic'],
    ['queue=', 'query/queue'],
    ['wat=1', 'query/wat'],
  ])('?%s is refused by name', async (query, pointer) => {
    expect(await refusal(await app.request(`${path}?${query}`))).toEqual(invalidField(pointer))
  })

  test('an unknown one is 404 everywhere', async () => {
    for (const id of ['sub_00000000000000000000', 'nonsense', '%00', 'a%2Fb'])
      for (const [method, rest] of [
        ['GET', ''],
        ['PATCH', ''],
        ['DELETE', ''],
        ['POST', '/enable'],
        ['POST', '/disable'],
        ['POST', '/test'],
        ['POST', '/rotate_secret'],
        ['GET', '/secret'],
        ['POST', '/replay'],
        ['GET', '/attempts'],
      ]) {
        const answer = await app.request(`${path}/${id}${rest}`, { method: String(method) })
        expect(await refusal(answer), `${method} ${id}${rest}`).toMatchObject({
          status: 404,
          code: 'subscription_not_found',
        })
      }
  })

  test('a parameter where none is known is refused', async () => {
    const { id } = await subscription()
    expect(await refusal(await app.request(`${path}/${id}?x=1`))).toEqual(invalidField('query/x'))
  })

  test('counts are those of the backlog, which is browsed as a queue', async () => {
    const { id, backlog_queue: backlog } = await subscription({ pattern: 'counted' })
    await publish('one', '?routing_key=counted')
    await publish('two', '?routing_key=counted&delay=1h')
    await publish('three', '?routing_key=another')
    expect(await look(id)).toMatchObject({ counts: { ready: 1, delayed: 1, leased: 0, dead: 0 } })
    expect(await bodiesIn(backlog)).toEqual(['one'])
    expect(await bodiesIn(backlog, 'delayed')).toEqual(['two'])
  })
})

describe('PATCH /v1/subscriptions/{id}', () => {
  test('settings that are not given keep their value, and null takes an optional one back', async () => {
    const all = {
      name: 'a',
      rate: '10/s',
      retry: { base: '1s', max: '1h', factor: 3 },
      max_attempts: 3,
      filter: { headers: { a: ['x'] } },
      pattern: 'a.b',
      headers: { a: 'x' },
      timeout: '10s',
    }
    const { id, secret, ...before } = await subscription(all)
    const changed = await patch(id, { url: `${url}/2`, concurrency: 1, format: 'envelope', headers: { b: 'y' } })
    expect(changed.status).toBe(200)
    const wanted = { ...before, url: `${url}/2`, concurrency: 1, format: 'envelope', headers: { b: 'y' } }
    expect(await read(changed)).toEqual({ ...wanted, id, updated_at: expect.any(String) })
    const nulls = { name: null, rate: null, max_attempts: null, filter: null }
    const reset = await read(await patch(id, { ...nulls, retry: null }))
    expect(reset).toMatchObject({ ...nulls, pattern: 'a.b', timeout: '10s', concurrency: 1 })
    expect(reset.retry).toMatchObject({ schedule: expect.any(Array) })
    expect(await read(await patch(id, {}))).toMatchObject({ url: `${url}/2` })
    expect(await look(id)).not.toHaveProperty('secret')
    expect(String(secret)).toMatch(/^whsec_/)
  })

  test('a changed pattern applies to the next publish', async () => {
    const { id, backlog_queue: backlog } = await subscription({ pattern: 'before' })
    await publish('one', '?routing_key=before')
    await patch(id, { pattern: 'after' })
    await publish('two', '?routing_key=before')
    await publish('three', '?routing_key=after')
    await patch(id, { filter: { body: { a: [1] } } })
    await publish('{"a":1}', '?routing_key=after')
    await publish('{"a":2}', '?routing_key=after')
    expect(await bodiesIn(backlog)).toEqual(['one', 'three', '{"a":1}'])
  })

  test('its queue or topic is fixed', async () => {
    const onTopic = await subscription()
    const onQueue = await subscription({ queue: 'work' })
    for (const [id, json, pointer] of [
      [onTopic.id, { topic: 'other' }, '/topic'],
      [onTopic.id, { queue: 'work' }, '/queue'],
      [onQueue.id, { queue: 'other' }, '/queue'],
      [onQueue.id, { topic: 'work' }, '/topic'],
    ] as const)
      expect(await refusal(await patch(id, json))).toEqual({
        status: 409,
        code: 'setting_is_fixed',
        pointers: [pointer],
      })
    expect((await patch(onTopic.id, { topic: 'work', name: 'x' })).status).toBe(200)
    expect((await patch(onQueue.id, { queue: 'work', name: 'x' })).status).toBe(200)
  })

  test.each<[unknown, string[]]>([
    [{ url: null }, ['/url']],
    [{ url: 'nonsense' }, ['/url']],
    [{ pattern: null }, ['/pattern']],
    [{ filter: { body: {} } }, ['/filter/body']],
    [{ headers: null }, ['/headers']],
    [{ headers: { a: null } }, ['/headers/a']],
    [{ timeout: null }, ['/timeout']],
    [{ retry: { base: 2, max: 1 } }, ['/retry/max']],
    [{ rate: 'fast' }, ['/rate']],
    [{ status: 'enabled' }, ['/status']],
    [{ id: 'x', secret: 'y' }, ['/id', '/secret']],
    [[], ['']],
  ])('%j is refused by name', async (json, pointers) => {
    const { id } = await subscription()
    expect(await refusal(await patch(id, json))).toEqual(invalidField(...pointers))
  })

  test('a subscription on a queue has no interest', async () => {
    const { id } = await subscription({ queue: 'work' })
    expect(await refusal(await patch(id, { pattern: 'x' }))).toEqual(invalidField('/pattern'))
    expect(await refusal(await patch(id, { filter: { headers: { a: ['x'] } } }))).toEqual(invalidField('/filter'))
  })

  test('another type is 415, a monstrous body 413', async () => {
    const { id } = await subscription()
    const send = (body: string, type: string) =>
      app.request(`${path}/${id}`, { method: 'PATCH', body, headers: { 'content-type': type } })
    expect(await refusal(await send('{}', 'text/plain'))).toMatchObject({ status: 415 })
    expect(await refusal(await send(' '.repeat(10 * 1024 * 1024 + 1), ''))).toMatchObject({ status: 413 })
  })

  test('a change that came between is 409', async () => {
    const late = async () => {
      throw new BrokerError('changed_meanwhile', 'Read it again.')
    }
    const racing = await testApp({ broken: ({ admin }) => ({ admin: { ...admin, updateSubscription: late } }) })
    await racing.request('/v1/queues/q', { method: 'PUT' })
    const { id } = await read(await create({ queue: 'q', url }, racing))
    const answer = await racing.request(`${path}/${id}`, { method: 'PATCH', json: { name: 'x' } })
    expect(await refusal(answer)).toMatchObject({ status: 409, code: 'changed_meanwhile' })
    await racing.stop()
  })
})
