/** Redriving and deleting dead letters over HTTP: what can be asked, what is refused by name, which keys may. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, rootKey, type TestApp, testApp } from './support/app.ts'
import { eventually } from './support/postgres.ts'

type Fields = Record<string, unknown>
let app: TestApp
beforeAll(async () => {
  app = await testApp()
  for (const name of ['box', 'target']) await put(name)
})
afterAll(() => app.stop())

const put = (name: string, json?: unknown) =>
  app.request(`/v1/queues/${name}`, { method: 'PUT', ...(json === undefined ? {} : { json }) })
const read = async (answer: Response) => (await answer.json()) as Fields
const redrive = (queue: string, json?: unknown) =>
  app.request(`/v1/queues/${queue}/redrive`, { method: 'POST', ...(json === undefined ? {} : { json }) })
const look = async (id: unknown) => read(await app.request(`/v1/tasks/${id}`))
const finished = (id: unknown) =>
  eventually(async () => {
    const task = await look(id)
    return task.state !== 'running' && task
  })
const deleteBy = (queue: string, json: unknown) =>
  app.request(`/v1/queues/${queue}/messages/delete`, { method: 'POST', json })
const bodiesIn = async (queue: string, state: string) => {
  const { data } = await read(await app.request(`/v1/queues/${queue}/messages?state=${state}`))
  return (data as { body: string }[]).map(({ body }) => body)
}
async function bury(queue: string, ...bodies: string[]): Promise<string[]> {
  const ids = await app.send(queue, ...bodies)
  for (const { receipt } of await app.receive(queue, '?max=100'))
    await app.request(`/v1/leases/${receipt}/reject`, { method: 'POST', json: { reason: 'no' } })
  return ids
}

describe('GET /v1/tasks', () => {
  const list = async (query = '') => read(await app.request(`/v1/tasks${query}`))

  test('answers the newest first, of all queues or of one, page by page', async () => {
    await put('listed')
    const ids: unknown[] = []
    for (let n = 0; n < 3; n++) ids.unshift((await finished((await read(await redrive('listed'))).id)).id)
    const all = (await list('?queue=listed')) as { data: Fields[]; next_cursor: string | null }
    expect(all).toMatchObject({ next_cursor: null, data: ids.map((id) => ({ id, queue: 'listed', state: 'done' })) })
    const first = (await list('?limit=2')) as typeof all
    expect(first.data.map(({ id }) => id)).toEqual(ids.slice(0, 2))
    const second = (await list(`?limit=2&cursor=${first.next_cursor}`)) as typeof all
    expect(second.data[0]).toMatchObject({ id: ids[2] })
    expect(await list('?queue=unknown')).toEqual({ data: [], next_cursor: null })
  })

  test.each([
    ['?queue=', 'query/queue'],
    ['?cursor=x', 'query/cursor'],
    ['?limit=0', 'query/limit'],
    ['?state=done', 'query/state'],
  ])('%s is refused by name', async (query, pointer) => {
    expect(await refusal(await app.request(`/v1/tasks${query}`))).toEqual(invalidField(pointer))
  })
})

describe('POST /v1/queues/{queue}/redrive', () => {
  test('answers 202 with a task and where to look at it; a bare one moves all', async () => {
    await put('all')
    await bury('all', 'a', 'b')
    const answer = await redrive('all')
    expect(answer.status).toBe(202)
    const task = await read(answer)
    expect(answer.headers.get('location')).toBe(`/v1/tasks/${task.id}`)
    expect(task).toEqual({
      id: expect.stringMatching(/^task_[0-9a-f]{20}$/),
      ...{ kind: 'redrive', queue: 'all', to: null, state: 'running', dry_run: false },
      ...{ scanned: 0, matched: 0, moved: 0, skipped: 0, error: null, finished_at: null },
      created_at: expect.stringMatching(/Z$/),
      updated_at: expect.stringMatching(/Z$/),
    })
    expect(await finished(task.id)).toMatchObject({
      id: task.id,
      state: 'done',
      moved: 2,
      finished_at: expect.any(String),
    })
    const got = await app.receive('all', '?max=5')
    expect(got.map(({ body, attempt }) => [body, attempt])).toEqual([
      ['a', 1],
      ['b', 1],
    ])
  })

  test('takes everything it says it takes', async () => {
    await put('some')
    await bury('some', '{"total":1}', '{"total":200}', '{"total":300}')
    const filter = {
      ...{ reason: ['rejected'], died_after: '2020-01-01T00:00:00Z', died_before: '2999-01-01T00:00:00Z' },
      ...{ body: { total: [{ numeric: ['>', 100] }] }, headers: { tenant: [{ exists: false }] } },
      $or: [{ body: { total: [200] } }, { body: { total: [300] } }],
    }
    const json = { to: 'target', filter, limit: 1, rate: '100/s', dry_run: true }
    expect(await finished((await read(await redrive('some', json))).id)).toMatchObject({
      ...{ to: 'target', dry_run: true, state: 'done', matched: 1, moved: 0 },
    })
    expect(await finished((await read(await redrive('some', { ...json, dry_run: false }))).id)).toMatchObject({
      moved: 1,
    })
    expect(await bodiesIn('target', 'ready')).toEqual(['{"total":200}'])
    for (const bare of [{ to: null, filter: null, limit: null, rate: null }, { filter: {} }, { filter: { key: 'x' } }])
      expect((await redrive('some', { ...bare, dry_run: true })).status).toBe(202)
    expect((await redrive('some', { filter: { key: ['x', 'y'] }, dry_run: true })).status).toBe(202)
  })

  test.each<[Fields, string]>([
    [{ too: 'x' }, '/too'],
    [{ to: 'no/name' }, '/to'],
    [{ to: 'missing' }, '/to'],
    [{ limit: 0 }, '/limit'],
    [{ limit: 1_000_000_001 }, '/limit'],
    [{ limit: 1.5 }, '/limit'],
    [{ limit: '5' }, '/limit'],
    [{ rate: '10' }, '/rate'],
    [{ rate: '0/s' }, '/rate'],
    [{ rate: '100001/s' }, '/rate'],
    [{ rate: 10 }, '/rate'],
    [{ dry_run: 'yes' }, '/dry_run'],
    [{ filter: [] }, '/filter'],
    [{ filter: 'x' }, '/filter'],
    [{ filter: { state: ['dead'] } }, '/filter/state'],
    [{ filter: { headers: { tenant: 'acme' } } }, '/filter/headers/tenant'],
    [{ filter: { body: { a: [{ nope: 1 }] } } }, '/filter/body/a/0/nope'],
    [{ filter: { $or: [] } }, '/filter/$or'],
    [{ filter: { reason: [] } }, '/filter/reason'],
    [{ filter: { reason: 'rejected' } }, '/filter/reason'],
    [{ filter: { reason: ['bored'] } }, '/filter/reason/0'],
    [{ filter: { died_after: 'yesterday' } }, '/filter/died_after'],
    [{ filter: { died_after: '2030-01-02T00:00:00Z', died_before: '2030-01-01T00:00:00Z' } }, '/filter/died_before'],
    [{ filter: { key: '' } }, '/filter/key'],
    [{ filter: { key: [] } }, '/filter/key'],
  ])('%j is refused by name', async (json, pointer) => {
    expect(await refusal(await redrive('box', json))).toEqual(invalidField(pointer))
  })

  test('several wrong fields are told at once', async () => {
    const filter = { reason: [], body: 5, died_after: 'x' }
    const { pointers } = await refusal(await redrive('box', { filter, limit: 0 }))
    expect(pointers.sort()).toEqual(['/filter/body', '/filter/died_after', '/filter/reason', '/limit'])
  })

  test('dead letters are not moved to where they lie, nor on a way that leads around', async () => {
    await put('graves')
    await put('work', { dead_letter_queue: 'graves' })
    expect(await refusal(await redrive('graves', { to: 'graves' }))).toEqual(invalidField('/to'))
    await put('graves', { dead_letter_queue: 'work' })
    expect(await refusal(await redrive('graves'))).toEqual(invalidField('/to'))
    await put('graves', { dead_letter_queue: null })
    await bury('work', 'x')
    expect(await finished((await read(await redrive('graves'))).id)).toMatchObject({ moved: 1 })
    expect(await bodiesIn('work', 'ready')).toEqual(['x'])
  })

  test('a queue that is not there is 404, what is not JSON 400, another type 415', async () => {
    expect(await refusal(await redrive('missing'))).toMatchObject({ status: 404, code: 'queue_not_found' })
    const raw = (body: string, type: string) =>
      app.request('/v1/queues/box/redrive', { method: 'POST', body, headers: { 'content-type': type } })
    expect(await refusal(await raw('{', 'application/json'))).toMatchObject({ status: 400, code: 'malformed_json' })
    expect(await refusal(await raw('x', 'text/csv'))).toMatchObject({ status: 415 })
    expect((await raw(`"${'x'.repeat(10 * 1024 * 1024)}"`, 'application/json')).status).toBe(413)
  })
})

describe('/v1/tasks/{id}', () => {
  test('a cancelled task says so; cancelling is done once, and again', async () => {
    await put('slow')
    await bury('slow', 'a', 'b', 'c')
    const { id } = await read(await redrive('slow', { rate: '1/h' }))
    const cancel = () => app.request(`/v1/tasks/${id}`, { method: 'DELETE' })
    expect((await cancel()).status).toBe(204)
    expect((await cancel()).status).toBe(204)
    expect(await look(id)).toMatchObject({ state: 'cancelled', moved: 0, finished_at: expect.any(String) })
    expect(await bodiesIn('slow', 'dead')).toEqual(['a', 'b', 'c'])
  })

  test('one that is done stays done', async () => {
    const { id } = await read(await redrive('box'))
    await finished(id)
    expect((await app.request(`/v1/tasks/${id}`, { method: 'DELETE' })).status).toBe(204)
    expect(await look(id)).toMatchObject({ state: 'done' })
  })

  test.each(['task_0', 'task_', 'x', 'task_%00'])('%s is 404', async (id) => {
    for (const method of ['GET', 'DELETE'])
      expect(await refusal(await app.request(`/v1/tasks/${id}`, { method }))).toMatchObject({
        status: 404,
        code: 'task_not_found',
      })
  })
})

describe('POST /v1/queues/{queue}/messages/delete', () => {
  test('deletes what the filter matches, up to the limit, and nothing else', async () => {
    await put('waste')
    await bury('waste', '{"n":1}', '{"n":2}', '{"n":3}', '{"n":4}')
    await app.send('waste', '{"n":5}', '{"n":6}', '{"n":7}')
    await app.request('/v1/queues/waste/messages?delay=1h', { method: 'POST', body: '{"n":8}' })
    const [leased] = await app.receive('waste')
    const filter = { body: { n: [{ numeric: ['>', 1] }] } }
    expect(await read(await deleteBy('waste', { state: 'dead', filter, limit: 2 }))).toEqual({ deleted: 2 })
    expect(await bodiesIn('waste', 'dead')).toEqual(['{"n":1}', '{"n":4}'])
    expect(await read(await deleteBy('waste', { state: 'dead', filter: { reason: ['expired'] } }))).toEqual({
      deleted: 0,
    })
    expect(await read(await deleteBy('waste', { state: 'dead', filter: { reason: ['rejected'] } }))).toEqual({
      deleted: 2,
    })
    expect(await read(await deleteBy('waste', { state: 'delayed', filter: { body: { n: [8] } } }))).toEqual({
      deleted: 1,
    })
    expect(await read(await deleteBy('waste', { state: 'ready', filter: { body: { n: [6] } } }))).toEqual({
      deleted: 1,
    })
    // A leased message is left to who holds it.
    expect(await read(await deleteBy('waste', { state: 'ready' }))).toEqual({ deleted: 1 })
    expect(await bodiesIn('waste', 'leased')).toEqual([leased?.body])
  })

  test('more than a page of them', async () => {
    await put('heap')
    for (let n = 0; n < 3; n++) await app.send('heap', ...Array.from({ length: 400 }, (_, at) => `{"odd":${at % 2}}`))
    const filter = { body: { odd: [1] } }
    expect(await read(await deleteBy('heap', { state: 'ready', filter, limit: 599 }))).toEqual({ deleted: 599 })
    expect(await read(await deleteBy('heap', { state: 'ready', filter }))).toEqual({ deleted: 1 })
    expect(await read(await app.request('/v1/queues/heap'))).toMatchObject({ counts: { ready: 600 } })
  })

  test('on a keyed queue what waits counts as ready, and the next moves up', async () => {
    await put('lanes', { order: 'keyed' })
    for (const n of [1, 2, 3, 4])
      await app.request('/v1/queues/lanes/messages?key=k', { method: 'POST', body: `{"n":${n}}` })
    await eventually(async () => (await bodiesIn('lanes', 'ready')).length === 4)
    const filter = { key: 'k', body: { n: [1, 3] } }
    expect(await read(await deleteBy('lanes', { state: 'ready', filter }))).toEqual({ deleted: 2 })
    const [got] = await app.receive('lanes', '?wait=5s')
    expect(got?.body).toBe('{"n":2}')
    await app.request(`/v1/leases/${got?.receipt}`, { method: 'DELETE' })
    for (let n = 5; n < 100; n++)
      await app.request('/v1/queues/lanes/messages?key=k', { method: 'POST', body: `{"n":${n}}` })
    expect(await read(await deleteBy('lanes', { state: 'ready', filter: { key: 'k' } }))).toEqual({ deleted: 96 })
    expect(await read(await app.request('/v1/queues/lanes'))).toMatchObject({ counts: { ready: 0 } })
  })

  test.each<[Fields, string]>([
    [{}, '/state'],
    [{ state: 'leased' }, '/state'],
    [{ state: 'dead', filter: { x: 1 } }, '/filter/x'],
    [{ state: 'dead', limit: 0 }, '/limit'],
    [{ state: 'dead', force: true }, '/force'],
  ])('%j is refused by name', async (json, pointer) => {
    expect(await refusal(await deleteBy('box', json))).toEqual(invalidField(pointer))
  })

  test('a queue that is not there is 404', async () => {
    expect(await refusal(await deleteBy('missing', { state: 'dead' }))).toMatchObject({ status: 404 })
  })
})

describe('scopes', () => {
  let keyed: TestApp
  const bearer = (key: string) => ({ authorization: `Bearer ${key}` })
  const as = (key: string, method: string, path: string, json?: unknown) =>
    keyed.request(path, { method, headers: bearer(key), ...(json === undefined ? {} : { json }) })
  beforeAll(async () => {
    keyed = await testApp({ rootKey, open: false })
    for (const name of ['mine', 'theirs', 'graves']) await as(rootKey, 'PUT', `/v1/queues/${name}`)
    await as(rootKey, 'PUT', '/v1/queues/theirs', { dead_letter_queue: 'graves' })
  })
  afterAll(() => keyed.stop())
  async function keyFor(...scopes: [action: string, queue: string][]): Promise<string> {
    const json = { name: 'test', scopes: scopes.map(([action, queue]) => ({ actions: [action], queues: [queue] })) }
    return String((await read(await as(rootKey, 'POST', '/v1/keys', json))).key)
  }

  test('a redrive needs manage on the queue, and manage or send on where the letters go', async () => {
    const status = async (key: string, queue: string, json: unknown) =>
      (await as(key, 'POST', `/v1/queues/${queue}/redrive`, json)).status
    for (const action of ['send', 'receive', 'read'])
      expect(await status(await keyFor([action, '*']), 'mine', {})).toBe(403)
    const manager = await keyFor(['manage', 'mine'], ['manage', 'graves'])
    expect(await status(manager, 'mine', {})).toBe(202)
    expect(await status(manager, 'mine', { to: 'theirs' })).toBe(403)
    expect(await status(manager, 'mine', { to: 'missing' })).toBe(403)
    expect(await status(manager, 'graves', {})).toBe(403)
    expect(await status(manager, 'graves', { to: 'mine' })).toBe(202)
    const sender = await keyFor(['manage', 'mine'], ['manage', 'graves'], ['send', 'theirs'])
    expect(await status(sender, 'mine', { to: 'theirs' })).toBe(202)
    expect(await status(sender, 'graves', {})).toBe(202)
    expect((await keyed.request('/v1/queues/mine/redrive', { method: 'POST' })).status).toBe(401)
  })

  test('a task is as open as its queue, and no id can be probed', async () => {
    const { id } = await read(await as(rootKey, 'POST', '/v1/queues/mine/redrive', {}))
    const reader = await keyFor(['read', 'mine'])
    const stranger = await keyFor(['manage', 'theirs'], ['send', 'mine'])
    const manager = await keyFor(['manage', 'mine'])
    expect((await as(reader, 'GET', `/v1/tasks/${id}`)).status).toBe(200)
    expect((await as(reader, 'DELETE', `/v1/tasks/${id}`)).status).toBe(403)
    for (const method of ['GET', 'DELETE']) expect((await as(stranger, method, `/v1/tasks/${id}`)).status).toBe(404)
    expect((await as(manager, 'GET', `/v1/tasks/${id}`)).status).toBe(200)
    expect((await as(manager, 'DELETE', `/v1/tasks/${id}`)).status).toBe(204)
    expect((await keyed.request(`/v1/tasks/${id}`)).status).toBe(401)
  })

  test('a list of tasks shows those that the key may look at, and needs a key that may look at any', async () => {
    const ids: Record<string, unknown> = {}
    for (const queue of ['mine', 'theirs'])
      ids[queue] = (await read(await as(rootKey, 'POST', `/v1/queues/${queue}/redrive`, {}))).id
    const listed = async (key: string, query = '') => {
      const { data } = await read(await as(key, 'GET', `/v1/tasks${query}`))
      return (data as Fields[]).map(({ id }) => id)
    }
    expect(await listed(rootKey)).toEqual(expect.arrayContaining(Object.values(ids)))
    for (const action of ['read', 'manage']) {
      const some = await listed(await keyFor([action, 'mine']), '?limit=1000')
      expect(some).toContain(ids.mine)
      expect(some).not.toContain(ids.theirs)
    }
    const reader = await keyFor(['read', 'mine'])
    expect((await as(reader, 'GET', '/v1/tasks?queue=theirs')).status).toBe(403)
    for (const action of ['send', 'receive'])
      expect((await as(await keyFor([action, '*']), 'GET', '/v1/tasks')).status).toBe(403)
    expect((await keyed.request('/v1/tasks')).status).toBe(401)
  })

  test('changing and deleting messages need manage', async () => {
    const worker = await keyFor(['send', '*'], ['receive', '*'], ['read', '*'])
    expect((await as(worker, 'PATCH', '/v1/queues/mine/messages/x', { priority: 1 })).status).toBe(403)
    expect((await as(worker, 'POST', '/v1/queues/mine/messages/delete', { state: 'dead' })).status).toBe(403)
    const manager = await keyFor(['manage', 'mine'])
    expect((await as(manager, 'PATCH', '/v1/queues/mine/messages/x', { priority: 1 })).status).toBe(404)
    expect((await as(manager, 'POST', '/v1/queues/mine/messages/delete', { state: 'dead' })).status).toBe(200)
  })
})
