/** Which keys may look at a webhook subscription or change it: as its queue or topic says, and no id can be probed. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Attempt } from '../src/model/index.ts'
import { refusal, rootKey, type TestApp, testApp } from './support/app.ts'

type Fields = Record<string, unknown>
const url = 'https://example.com/hooks'
const path = '/v1/subscriptions'
const read = async (answer: Response) => (await answer.json()) as Fields
const tried: Attempt = {
  id: 'att_1',
  messageId: 'msg_test_1',
  attempt: 0,
  at: new Date('2030-01-01T00:00:00Z'),
  outcome: 'succeeded',
  status: 204,
  durationMs: 12,
  requestHeaders: { Authorization: 'Bearer s3cret', 'webhook-id': 'msg_test_1' },
  responseHeaders: { server: 'x' },
  responseBody: Buffer.from('ok'),
  error: null,
  nextAttemptAt: null,
}

describe('scopes', () => {
  let keyed: TestApp
  const ids = { queue: '', topic: '' }
  const bearer = (key: string) => ({ authorization: `Bearer ${key}` })
  const asRoot = (at: string, init: { method?: string; json?: unknown } = {}) =>
    keyed.request(at, { ...init, headers: bearer(rootKey) })
  beforeAll(async () => {
    keyed = await testApp({ rootKey, open: false, testWebhook: async () => tried })
    for (const source of ['queue', 'topic'] as const) {
      await asRoot(`/v1/${source}s/mine`, { method: 'PUT' })
      const answer = await asRoot(path, { method: 'POST', json: { [source]: 'mine', url } })
      ids[source] = String((await read(answer)).id)
    }
  })
  afterAll(() => keyed.stop())

  async function keyFor(...scopes: Fields[]): Promise<string> {
    const answer = await asRoot('/v1/keys', { method: 'POST', json: { name: 'test', scopes } })
    expect(answer.status).toBe(201)
    return String((await read(answer)).key)
  }
  const everything: [action: string, method: string, rest: string][] = [
    ['read', 'GET', ''],
    ['manage', 'PATCH', ''],
    ['manage', 'POST', '/enable'],
    ['manage', 'POST', '/disable'],
    ['manage', 'POST', '/test'],
    ['manage', 'POST', '/rotate_secret'],
    ['manage', 'GET', '/secret'],
    ['manage', 'POST', '/replay'],
    ['read', 'GET', '/attempts'],
  ]

  test('a subscription is as open as its queue or topic', async () => {
    for (const source of ['queue', 'topic'] as const) {
      const elsewhere = source === 'queue' ? 'topic' : 'queue'
      for (const action of ['send', 'receive', 'read', 'manage']) {
        const key = await keyFor({ actions: [action], [`${source}s`]: ['mine'] })
        for (const [needed, method, rest] of everything) {
          const call = async (id: string) =>
            (await keyed.request(`${path}/${id}${rest}`, { method, headers: bearer(key) })).status
          const what = `${source}: ${action}: ${method} ${rest}`
          expect(await call(ids[elsewhere]), `${what} of the other`).toBe(404)
          const blind = action === 'send' || action === 'receive'
          expect(await call(ids[source]), what).toBe(
            blind ? 404 : needed !== action ? 403 : rest === '/replay' ? 202 : 200,
          )
        }
      }
    }
  })

  test('who may not look cannot tell one that is there from one that is not', async () => {
    const key = await keyFor({ actions: ['read', 'manage'], queues: ['other'] })
    const absent = 'sub_00000000000000000000'
    const ask = async (id: string) => {
      const answer = await keyed.request(`${path}/${id}`, { headers: bearer(key) })
      const { instance, ...rest } = await read(answer)
      return JSON.stringify(rest).replaceAll(id, 'ID')
    }
    expect(await ask(ids.topic)).toBe(await ask(absent))
  })

  test('the refusal names the topic or queue', async () => {
    const key = await keyFor({ actions: ['read'], queues: ['mine'], topics: ['mine'] })
    for (const source of ['queue', 'topic'] as const) {
      const answer = await keyed.request(`${path}/${ids[source]}`, { method: 'DELETE', headers: bearer(key) })
      expect(await read(answer)).toMatchObject({
        code: 'forbidden',
        detail: `This API key has no scope to manage on ${source} mine.`,
      })
    }
  })

  test('only who manages a queue or topic may subscribe to it', async () => {
    for (const source of ['queue', 'topic'] as const) {
      const other = source === 'queue' ? 'topics' : 'queues'
      const subscribe = async (...scopes: Fields[]) => {
        const headers = bearer(await keyFor(...scopes))
        return keyed.request(path, { method: 'POST', headers, json: { [source]: 'mine', url } })
      }
      const most = { actions: ['send', 'receive', 'read'], [`${source}s`]: ['*'] }
      expect(await refusal(await subscribe(most, { actions: ['manage'], [other]: ['*'] }))).toMatchObject({
        status: 403,
        code: 'forbidden',
      })
      expect((await subscribe({ actions: ['manage'], [`${source}s`]: ['mine'] })).status).toBe(201)
    }
  })

  test('a list shows only what may be read', async () => {
    const list = async (...scopes: Fields[]) =>
      keyed.request(`${path}?limit=1000`, { headers: bearer(await keyFor(...scopes)) })
    const seen = async (...scopes: Fields[]) =>
      ((await (await list(...scopes)).json()) as { data: Fields[] }).data.map(({ id }) => id)
    const queues = await seen({ actions: ['read'], queues: ['*'] })
    expect(queues).toContain(ids.queue)
    expect(queues).not.toContain(ids.topic)
    const topics = await seen({ actions: ['read'], topics: ['mine'] })
    expect(topics).toContain(ids.topic)
    expect(topics).not.toContain(ids.queue)
    expect(await seen({ actions: ['read'], topics: ['other'] })).toEqual([])
    expect(await refusal(await list({ actions: ['manage'], queues: ['*'] }))).toMatchObject({ status: 403 })
  })

  test('without a key everything is 401', async () => {
    for (const [, method, rest] of everything)
      expect((await keyed.request(`${path}/${ids.topic}${rest}`, { method })).status).toBe(401)
    expect((await keyed.request(path)).status).toBe(401)
    expect((await keyed.request(path, { method: 'POST', json: {} })).status).toBe(401)
  })
})
