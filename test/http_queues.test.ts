/** Queues over HTTP: what can be set, read, listed, paused, purged and deleted. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp()
})
afterAll(() => app.stop())

const put = (name: string, json?: unknown) =>
  app.request(`/v1/queues/${name}`, { method: 'PUT', ...(json === undefined ? {} : { json }) })
const read = async (answer: Response) => (await answer.json()) as Record<string, unknown>

describe('PUT /v1/queues/{queue}', () => {
  test('a bare PUT creates a queue with the defaults, and again only ensures it', async () => {
    const first = await put('bare')
    expect(first.status).toBe(201)
    expect(first.headers.get('location')).toBe('/v1/queues/bare')
    expect(await read(first)).toMatchObject({
      name: 'bare',
      order: 'fifo',
      lease: '30s',
      max_attempts: 10,
      delay: '0s',
      ttl: '14d',
      backoff: null,
      dead_letter_queue: null,
      dead_letter_expired: false,
      max_messages: null,
      max_bytes: null,
      overflow: 'reject',
      dedup_window: '5m',
      max_leased: null,
      paused: false,
      counts: { ready: 0, delayed: 0, leased: 0, dead: 0 },
    })
    expect((await put('bare')).status).toBe(200)
  })

  test('settings that are not given keep their value, and null takes an optional one back', async () => {
    await put('kept', { lease: '45s', max_messages: 5, backoff: { base: 1 } })
    const changed = await read(await put('kept', { max_attempts: 3 }))
    expect(changed).toMatchObject({
      lease: '45s',
      max_attempts: 3,
      max_messages: 5,
      backoff: { base: '1s', max: '1h', factor: 2, jitter: 0.2 },
    })
    const reset = await read(await put('kept', { max_messages: null, backoff: null }))
    expect(reset).toMatchObject({ lease: '45s', max_messages: null, backoff: null })
  })

  test('durations are seconds or text with a unit', async () => {
    const answer = await put('durations', { lease: 90, delay: '500ms', ttl: '2h', dedup_window: '1.5' })
    expect(await read(answer)).toMatchObject({ lease: '90s', delay: '500ms', ttl: '2h', dedup_window: '1500ms' })
  })

  test('what `curl -d` declares is read as JSON', async () => {
    const headers = { 'content-type': 'application/x-www-form-urlencoded' }
    const answer = await app.request('/v1/queues/curl', { method: 'PUT', headers, body: '{"lease":"5s"}' })
    expect(await read(answer)).toMatchObject({ lease: '5s' })
  })

  test.each<[unknown, string[]]>([
    [{ lease: '0s' }, ['/lease']],
    [{ lease: '13h' }, ['/lease']],
    [{ lease: 'soon' }, ['/lease']],
    [{ lease: null }, ['/lease']],
    [{ lease: -1 }, ['/lease']],
    [{ max_attempts: 0 }, ['/max_attempts']],
    [{ max_attempts: 1.5 }, ['/max_attempts']],
    [{ max_attempts: '10' }, ['/max_attempts']],
    [{ order: 'random' }, ['/order']],
    [{ overflow: 'explode' }, ['/overflow']],
    [{ paused: 'yes' }, ['/paused']],
    [{ dead_letter_queue: '../x' }, ['/dead_letter_queue']],
    [{ backoff: {} }, ['/backoff/base']],
    [{ backoff: { base: '1m', max: '1s' } }, ['/backoff/max']],
    [{ backoff: { base: 1, jitter: 2 } }, ['/backoff/jitter']],
    [{ backoff: { base: 1, wat: 2 } }, ['/backoff/wat']],
    [{ wat: 1, 'a/b~c': 2 }, ['/wat', '/a~1b~0c']],
    [JSON.parse('{"__proto__":1}'), ['/__proto__']],
    [[], ['']],
    [null, ['']],
    ['text', ['']],
  ])('%j is refused by name', async (json, pointers) => {
    expect(await refusal(await put('wrong', json))).toEqual(invalidField(...pointers))
  })

  test('the order is fixed at creation', async () => {
    await put('ordered', { order: 'lifo' })
    expect(await refusal(await put('ordered', { order: 'fifo' }))).toMatchObject({
      status: 409,
      code: 'setting_is_fixed',
    })
    expect((await put('ordered', { order: 'lifo' })).status).toBe(200)
  })

  test('a dead letter queue must exist', async () => {
    expect(await refusal(await put('lost', { dead_letter_queue: 'nowhere' }))).toMatchObject({ status: 422 })
    await put('morgue')
    expect(await read(await put('lost', { dead_letter_queue: 'morgue' }))).toMatchObject({
      dead_letter_queue: 'morgue',
    })
  })

  test('malformed JSON is 400, another type 415', async () => {
    const send = (body: string, type: string) =>
      app.request('/v1/queues/x', { method: 'PUT', body, headers: { 'content-type': type } })
    expect(await refusal(await send('{', 'application/json'))).toMatchObject({ status: 400, code: 'malformed_json' })
    const invalidUtf8 = Buffer.from([0x22, 0xff, 0x22]) as Uint8Array<ArrayBuffer>
    expect(await refusal(await app.request('/v1/queues/x', { method: 'PUT', body: invalidUtf8 }))).toMatchObject({
      status: 400,
    })
    expect(await refusal(await send('{}', 'text/plain'))).toMatchObject({ status: 415, code: 'unsupported_media_type' })
    expect(await refusal(await send('{}', 'application/json; charset=utf-16'))).toMatchObject({ status: 415 })
    expect((await send('{}', 'application/json; charset="UTF-8"')).status).toBe(201)
  })

  test('a body over 10 MiB is 413', async () => {
    const answer = await put('huge', { lease: 'x'.repeat(10 * 1024 * 1024) })
    expect(await refusal(answer)).toMatchObject({ status: 413, code: 'body_too_large' })
  })

  test.each(['a%2Fb', '%2e%2eb', 'a%20b', '__proto__', '%22', '-a', 'a'.repeat(81), '%E2%82%AC'])(
    'the name %s is refused',
    async (name) => {
      expect(await refusal(await put(name))).toEqual(invalidField('path/queue'))
      expect(await refusal(await app.request(`/v1/queues/${name}`))).toEqual(invalidField('path/queue'))
    },
  )

  test('names of one and of 80 characters are taken', async () => {
    expect((await put('a')).status).toBe(201)
    expect((await put('A.b_c-'.padEnd(80, '9'))).status).toBe(201)
  })

  test('a broken percent-encoding is 400', async () => {
    expect(await refusal(await put('a%zz'))).toMatchObject({ status: 400, code: 'malformed_request' })
    expect(await refusal(await put('a%ff'))).toMatchObject({ status: 400, code: 'malformed_request' })
  })
})

describe('reading queues', () => {
  test('GET gives settings, counts and times; HEAD the same without a body', async () => {
    await put('seen')
    await app.send('seen', 'one', 'two')
    await app.receive('seen')
    const answer = await app.request('/v1/queues/seen')
    expect(await read(answer)).toMatchObject({ name: 'seen', counts: { ready: 1, delayed: 0, leased: 1, dead: 0 } })
    const head = await app.request('/v1/queues/seen', { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([200, ''])
  })

  test('an unknown queue is 404 everywhere', async () => {
    for (const [method, path] of [
      ['GET', ''],
      ['DELETE', ''],
      ['GET', '/stats'],
      ['GET', '/messages'],
      ['POST', '/pause'],
      ['POST', '/resume'],
      ['POST', '/purge'],
      ['POST', '/messages'],
      ['POST', '/receive'],
      ['POST', '/settle'],
    ]) {
      const answer = await app.request(`/v1/queues/absent${path}`, { method: String(method) })
      if (path === '/settle') expect(answer.status).toBe(200)
      else expect(await refusal(answer), `${method} ${path}`).toMatchObject({ status: 404, code: 'queue_not_found' })
    }
    expect((await app.request('/v1/queues/absent')).status).toBe(404)
  })

  test('pages follow each other by name', async () => {
    for (const name of ['page1', 'page2', 'page3']) await put(name)
    const names: string[] = []
    let cursor: string | null = ''
    do {
      const answer = await app.request(`/v1/queues?limit=2${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`)
      const page = (await answer.json()) as { data: { name: string }[]; next_cursor: string | null }
      expect(page.data.length).toBeLessThanOrEqual(2)
      names.push(...page.data.map(({ name }) => name))
      cursor = page.next_cursor
    } while (cursor)
    expect(names).toEqual([...new Set(names)])
    expect(names).toEqual(expect.arrayContaining(['page1', 'page2', 'page3']))
  })

  test.each([
    ['limit=0', 'query/limit'],
    ['limit=1001', 'query/limit'],
    ['limit=1e2', 'query/limit'],
    ['limit=', 'query/limit'],
    ['cursor=', 'query/cursor'],
    ['limit=1&limit=1', 'query/limit'],
    ['wat=1', 'query/wat'],
    ['__proto__=1', 'query/__proto__'],
  ])('?%s is refused by name', async (query, pointer) => {
    expect(await refusal(await app.request(`/v1/queues?${query}`))).toEqual(invalidField(pointer))
  })

  test('a cursor that was not given out is 422', async () => {
    expect(await refusal(await app.request('/v1/queues?cursor=%22made%20up'))).toMatchObject({ status: 422 })
  })

  test('a parameter where none is known is refused', async () => {
    expect(await refusal(await app.request('/v1/queues/seen?x=1'))).toEqual(invalidField('query/x'))
    expect(await refusal(await app.request('/v1/queues/seen?x=%zz'))).toMatchObject({ status: 400 })
  })

  test('stats are flat figures', async () => {
    await put('figures')
    await app.send('figures', 'one')
    const stats = await read(await app.request('/v1/queues/figures/stats'))
    expect(stats).toMatchObject({ ready: 1, delayed: 0, leased: 0, dead: 0 })
    expect(Object.keys(stats).sort()).toEqual([
      'dead',
      'delayed',
      'desired_consumers',
      'drain_s',
      'in_rate',
      'leased',
      'oldest_ready_age_s',
      'out_rate',
      'ready',
      'service_s',
    ])
  })

  test('an autoscaler reads one figure by its name, with a key in the header, and says how old messages may become', async () => {
    await put('scaled')
    await app.send('scaled', 'one', 'two')
    // What KEDA's metrics-api scaler does: a GET, and `valueLocation` must be a number in the answer.
    const figureOf = async (location: string, query = '') => {
      const figures = await read(await app.request(`/v1/queues/scaled/stats${query}`))
      return figures[location]
    }
    expect(await figureOf('desired_consumers')).toBe(1)
    expect(await figureOf('ready', '?target_age=30s')).toBe(2)
    expect(await refusal(await app.request('/v1/queues/scaled/stats?target_age=0'))).toEqual(
      invalidField('query/target_age'),
    )
  })
})

describe('changing queues', () => {
  test('a paused queue hands out nothing until it is resumed', async () => {
    await put('still')
    await app.send('still', 'one')
    const paused = await app.request('/v1/queues/still/pause', { method: 'POST' })
    expect(await read(paused)).toMatchObject({ name: 'still', paused: true })
    expect(await app.receive('still')).toEqual([])
    const resumed = await app.request('/v1/queues/still/resume', { method: 'POST' })
    expect(await read(resumed)).toMatchObject({ paused: false })
    expect(await app.receive('still', '?wait=4s')).toHaveLength(1)
  })

  test('pausing an unknown queue does not create it', async () => {
    expect((await app.request('/v1/queues/ghost/pause', { method: 'POST' })).status).toBe(404)
    expect((await app.request('/v1/queues/ghost')).status).toBe(404)
  })

  test('purge deletes all but the dead letters, unless they are named', async () => {
    await put('full')
    await app.send('full', 'dead', 'leased', 'ready')
    const [dead] = await app.receive('full')
    await app.request(`/v1/leases/${dead?.receipt}/reject`, { method: 'POST' })
    await app.receive('full')
    const purge = (query: string) => app.request(`/v1/queues/full/purge${query}`, { method: 'POST' })
    expect(await read(await purge(''))).toEqual({ purged: 2 })
    expect(await read(await purge('?state=dead,ready'))).toEqual({ purged: 1 })
    expect(await refusal(await purge('?state=gone'))).toEqual(invalidField('query/state'))
    expect(await refusal(await purge('?state=dead,'))).toEqual(invalidField('query/state'))
  })

  test('a queue with messages is deleted only by force', async () => {
    await put('doomed')
    await app.send('doomed', 'one')
    const remove = (query = '') => app.request(`/v1/queues/doomed${query}`, { method: 'DELETE' })
    expect(await refusal(await remove())).toMatchObject({ status: 409, code: 'queue_not_empty' })
    expect(await refusal(await remove('?force=1'))).toEqual(invalidField('query/force'))
    expect((await remove('?force=true')).status).toBe(204)
    expect((await remove()).status).toBe(404)
  })

  test('what keeps a queue from being deleted is named, and what is advised helps', async () => {
    const remove = () => app.request('/v1/queues/held', { method: 'DELETE' })
    const advice = async () => ((await (await remove()).json()) as { detail: string }).detail
    const purge = (query: string) => app.request(`/v1/queues/held/purge${query}`, { method: 'POST' })
    await put('held')
    await app.send('held', 'dies', 'stays')
    const [first] = await app.receive('held')
    await app.request(`/v1/leases/${first?.receipt}/reject`, { method: 'POST' })
    const both =
      'The queue held still holds messages and dead letters: delete it with ?force=true, or purge it first with POST /v1/queues/held/purge?state=ready,delayed,leased,dead.'
    expect(await advice()).toBe(both)
    await purge('')
    expect(await advice()).toBe(both.replace('messages and ', '').replace('ready,delayed,leased,dead', 'dead'))
    await purge('?state=dead')
    expect((await remove()).status).toBe(204)
    await put('held')
    await app.send('held', 'one')
    expect(await advice()).toBe(both.replace(' and dead letters', '').replace('?state=ready,delayed,leased,dead', ''))
  })
})
