/** Batches: each message's fault is its own, a JSON body is kept as it was written, atomic is all or nothing. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'

const maxBodyBytes = 1000
let app: TestApp
beforeAll(async () => {
  app = await testApp({ maxBodyBytes })
})
afterAll(() => app.stop())

type Result = { index: number; id?: string; deduplicated?: true; error?: { code: string; detail: string } }
let count = 0
async function newQueue(settings: object = {}): Promise<string> {
  const name = `batch${count++}`
  await app.request(`/v1/queues/${name}`, { method: 'PUT', json: settings })
  return name
}
const post = (queue: string, body: string, query = '', type = 'application/json') =>
  app.request(`/v1/queues/${queue}/messages/batch${query}`, {
    method: 'POST',
    body: Buffer.from(body),
    headers: type === '' ? {} : { 'content-type': type },
  })
const batch = (queue: string, messages: unknown, query = '') => post(queue, JSON.stringify({ messages }), query)
const resultsOf = async (answer: Response) => ((await answer.json()) as { results: Result[] }).results

describe('POST /v1/queues/{queue}/messages/batch', () => {
  test('bodies arrive as they were written', async () => {
    const queue = await newQueue()
    const bodies = [
      '123456789012345678901234567890',
      '1.00',
      '{"b":1, "a" :2,"b":3}',
      '[ [ ] , {"body": "\\"}]"} ]',
      'null',
      'true',
    ]
    const text = `{ "messages" :[${bodies.map((body) => `{"priority":5,"b\\u006fdy" : ${body} }`).join(' , ')},{"body":"te\\u0078t"},{"body_base64":"AP8="}]}`
    const answer = await post(queue, text)
    expect(answer.status).toBe(200)
    expect((await resultsOf(answer)).map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    const messages = await app.receive(queue, '?max=10')
    expect(messages.slice(0, 6).map(({ body, content_type: type }) => [body, type])).toEqual(
      bodies.map((body) => [body, 'application/json']),
    )
    expect(messages[6]).toMatchObject({ body: 'text', content_type: 'text/plain; charset=utf-8' })
    expect(messages[7]).toMatchObject({ body_base64: 'AP8=', content_type: 'application/octet-stream' })
  })

  test('options and headers are kept', async () => {
    const queue = await newQueue()
    const message = { body: 'x', content_type: 'a/b', headers: { 'X-Tenant': 'ä' }, key: 'k', priority: 9, ttl: '1h' }
    await batch(queue, [message, { body: 'y', delay: 3600, key: null, headers: null }])
    expect(await app.receive(queue, '?max=5')).toMatchObject([
      { body: 'x', content_type: 'a/b', headers: { 'x-tenant': 'ä' }, key: 'k', priority: 9 },
    ])
  })

  test('the faults of some do not hold up the others', async () => {
    const queue = await newQueue()
    const wrong: [unknown, string][] = [
      ['text', '/messages/0: must be an object'],
      [{}, '/messages/1/body: exactly one of body and body_base64 is needed'],
      [{ body: 'x', body_base64: '' }, '/messages/2/body'],
      [{ body_base64: 'AP8' }, '/messages/3/body_base64'],
      [{ body: 'x', priority: 10 }, '/messages/4/priority'],
      [{ body: 'x', wat: 1 }, '/messages/5/wat'],
      [{ body: 'x', delay: 1, deliver_at: '2030-01-01T00:00:00Z' }, '/messages/6/deliver_at'],
      [{ body: 'x', key: 'a\u0000' }, '/messages/7/key'],
      [{ body: 'x', headers: { 'a b': 'x' } }, '/messages/8/headers/a b'],
      [{ body: 'x', headers: { a: 1 } }, '/messages/9/headers/a'],
      [{ body: 'x', headers: { a: 'x\ny' } }, '/messages/10/headers/a'],
      [{ body: 'x', headers: { a: '1', A: '2' } }, '/messages/11/headers/A'],
      [{ body: 'x', content_type: '' }, '/messages/12/content_type'],
      [{ body: 'x', dedup_id: '' }, '/messages/13/dedup_id'],
    ]
    const answer = await batch(queue, [...wrong.map(([message]) => message), { body: 'good' }])
    expect(answer.status).toBe(200)
    const results = await resultsOf(answer)
    wrong.forEach(([, detail], index) => {
      expect(results[index]).toMatchObject({ index, error: { code: 'invalid_value' } })
      expect(results[index]?.error?.detail).toContain(detail)
    })
    expect(results.at(-1)).toEqual({ index: wrong.length, id: expect.stringMatching(/^msg_/) })
    expect(await app.receive(queue, '?max=20')).toMatchObject([{ body: 'good' }])
  })

  test('half a surrogate pair cannot be stored and is refused', async () => {
    const queue = await newQueue()
    const answer = await post(
      queue,
      '{"messages":[{"body":"\\ud800"},{"body":["\\ud800"]},{"body":"x","key":"\\udc00"}]}',
    )
    const results = await resultsOf(answer)
    expect(results.map(({ error }) => error?.code)).toEqual(['invalid_value', undefined, 'invalid_value'])
    expect(await app.receive(queue)).toMatchObject([{ body: '["\\ud800"]' }])
  })

  test('a body over the limit is its own error', async () => {
    const queue = await newQueue()
    const results = await resultsOf(await batch(queue, [{ body: 'x'.repeat(maxBodyBytes) }, { body: 'é'.repeat(501) }]))
    expect(results).toMatchObject([{ id: expect.any(String) }, { error: { code: 'body_too_large' } }])
  })

  test('what a full queue refuses is its own error, and with atomic nothing is stored', async () => {
    const queue = await newQueue({ max_messages: 1 })
    const results = await resultsOf(await batch(queue, [{ body: 'a' }, { body: 'b' }]))
    expect(results.filter(({ error }) => error?.code === 'queue_full')).toHaveLength(1)
    const empty = await newQueue({ max_messages: 1 })
    expect(await refusal(await batch(empty, [{ body: 'a' }, { body: 'b' }], '?atomic=true'))).toMatchObject({
      status: 429,
      code: 'queue_full',
    })
    expect(await app.receive(empty)).toEqual([])
  })

  test('duplicates name the first', async () => {
    const queue = await newQueue()
    const results = await resultsOf(
      await batch(queue, [
        { body: 'a', dedup_id: 'one' },
        { body: 'b', dedup_id: 'one' },
      ]),
    )
    expect(results).toEqual([
      { index: 0, id: expect.any(String) },
      { index: 1, id: results[0]?.id, deduplicated: true },
    ])
  })

  describe('with an Idempotency-Key', () => {
    const send = (queue: string, body: string, key: string, { query = '', type = 'application/json' } = {}) =>
      app.request(`/v1/queues/${queue}/messages/batch${query}`, {
        method: 'POST',
        body,
        headers: { 'content-type': type, 'idempotency-key': key },
      })
    const some = JSON.stringify({ messages: [{ body: 'a' }, { body: 'b', dedup_id: 'own' }, { body: 'a' }] })
    const ids = (results: Result[]) => results.map(({ id }) => id)
    const deduplicated = (results: Result[]) => results.map((result) => result.deduplicated ?? false)

    test.each([
      ['JSON', some, {}],
      ['JSON, atomic', some, { query: '?atomic=true' }],
      ['lines', '1\n\n1\n2\n', { type: 'application/x-ndjson' }],
    ])('a retry stores nothing and answers each with the id of the first: %s', async (_, body, options) => {
      const queue = await newQueue()
      const first = await resultsOf(await send(queue, body, 'key', options))
      expect(new Set(ids(first)).size).toBe(3)
      expect(deduplicated(first)).toEqual([false, false, false])
      const again = await resultsOf(await send(queue, body, 'key', options))
      expect(ids(again)).toEqual(ids(first))
      expect(deduplicated(again)).toEqual([true, true, true])
      const another = await resultsOf(await send(queue, body, 'other', options))
      expect(deduplicated(another)).toEqual([false, body === some, false])
      expect(await app.receive(queue, '?max=10')).toHaveLength(body === some ? 5 : 6)
    })

    test('a retry stores what the first could not', async () => {
      const queue = await newQueue()
      const messages = (middle: object) => JSON.stringify({ messages: [{ body: 'a' }, middle, { body: 'c' }] })
      const first = await resultsOf(await send(queue, messages({ body: 'b', priority: 11 }), 'key'))
      const again = await resultsOf(await send(queue, messages({ body: 'b' }), 'key'))
      expect(deduplicated(again)).toEqual([true, false, true])
      expect([again[0]?.id, again[2]?.id]).toEqual([first[0]?.id, first[2]?.id])
    })

    test('the longest key will do, and no dedup_id of a caller is like what is made of it', async () => {
      const queue = await newQueue()
      for (const key of ['k'.repeat(255), '1', '0']) {
        const own = ['0', '1', '01', '10', `0${key}`, `${key}0`].map((id) => ({ body: id, dedup_id: id.slice(0, 255) }))
        await batch(queue, own)
        expect(deduplicated(await resultsOf(await send(queue, some, key)))).toEqual([
          false,
          key !== 'k'.repeat(255),
          false,
        ])
      }
      expect(await refusal(await send(queue, some, 'k'.repeat(256)))).toEqual(invalidField('header/idempotency-key'))
    })
  })

  test('headers for messages belong into the messages', async () => {
    const queue = await newQueue()
    const answer = await app.request(`/v1/queues/${queue}/messages/batch`, {
      method: 'POST',
      body: '1',
      headers: { 'content-type': 'application/x-ndjson', 'Postern-Header-Tenant': 'a' },
    })
    expect(await refusal(answer)).toEqual(invalidField('header/postern-header-tenant'))
    expect(await app.receive(queue)).toEqual([])
  })

  test('a header may be named __proto__', async () => {
    const queue = await newQueue()
    await post(queue, '{"messages":[{"body":"x","headers":{"__proto__":"1","b":"2"}}]}')
    const [message] = await app.receive(queue)
    expect(JSON.stringify(message?.headers)).toBe('{"b":"2","__proto__":"1"}')
    expect(await refusal(await batch(queue, [{ body: 'x', headers: [] }], '?atomic'))).toEqual(
      invalidField('/messages/0/headers'),
    )
  })

  test('atomic stores all with 201, or nothing with 422 and every fault', async () => {
    const queue = await newQueue()
    expect((await batch(queue, [{ body: 'a' }, { body: 'b' }], '?atomic=true')).status).toBe(201)
    const wrong = await batch(queue, [{ body: 'c' }, { body: 'd', priority: 11 }, { body: 'e', ttl: '0' }], '?atomic')
    expect(await refusal(wrong)).toEqual(invalidField('/messages/1/priority', '/messages/2/ttl'))
    expect(await app.receive(queue, '?max=10')).toHaveLength(2)
  })

  test.each<[string, string, string[]]>([
    ['no messages', '{"messages":[]}', ['/messages']],
    ['no array', '{"messages":{}}', ['/messages']],
    ['nothing', '{}', ['/messages']],
    ['another field', '{"messages":[{"body":1}],"atomic":true}', ['/atomic']],
    ['an array', '[]', ['']],
    ['1001 messages', JSON.stringify({ messages: Array(1001).fill({ body: '' }) }), ['/messages']],
    ['no body', '', ['/messages']],
  ])('%s is 422', async (_, body, pointers) => {
    expect(await refusal(await post(await newQueue(), body))).toEqual(invalidField(...pointers))
  })

  test('1000 messages are taken, without a type or with that of curl', async () => {
    const queue = await newQueue()
    const text = JSON.stringify({ messages: Array(1000).fill({ body: '' }) })
    for (const type of ['', 'application/x-www-form-urlencoded']) {
      expect(await resultsOf(await post(queue, text, '', type))).toHaveLength(1000)
    }
  })

  test('malformed is 400, too large 413, another type 415, an unknown queue 404', async () => {
    const queue = await newQueue()
    expect(await refusal(await post(queue, '{"messages":[', ''))).toMatchObject({ status: 400, code: 'malformed_json' })
    expect(await refusal(await post(queue, ' '.repeat(10 * 1024 * 1024 + 1)))).toMatchObject({ status: 413 })
    expect(await refusal(await post(queue, '{}', '', 'text/plain'))).toMatchObject({ status: 415 })
    for (const type of ['application/json', 'application/x-ndjson'])
      expect(await refusal(await post(queue, '{}', '', `${type}; charset=utf-16`))).toMatchObject({ status: 415 })
    expect(await refusal(await batch('absent', [{ body: 'x' }]))).toMatchObject({ status: 404 })
    expect(await refusal(await batch('absent', [{ wrong: 'x' }]))).toMatchObject({ status: 404 })
    expect(await refusal(await batch(queue, [{ body: 'x' }], '?atomic=maybe'))).toEqual(invalidField('query/atomic'))
  })

  test('nesting of 100,000 is no danger', async () => {
    const queue = await newQueue()
    const deep = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)
    const body = `{"messages":[{"body":${deep(100_000)}},{"body":${deep(400)}}]}`
    const results = await resultsOf(await post(queue, body))
    expect(results).toMatchObject([{ error: { code: 'body_too_large' } }, { id: expect.any(String) }])
    expect(await app.receive(queue)).toMatchObject([{ body: deep(400) }])
  })
})

describe('lines of JSON', () => {
  const lines = (queue: string, text: string, query = '') => post(queue, text, query, 'application/x-ndjson')

  test('each line is one body, byte for byte; blank lines do not count', async () => {
    const queue = await newQueue()
    const answer = await lines(queue, '{"a": 1.00}\r\n\n  \n"b"\n [ 3 ] ')
    expect(await resultsOf(answer)).toHaveLength(3)
    expect(await app.receive(queue, '?max=5')).toMatchObject([
      { body: '{"a": 1.00}', content_type: 'application/json' },
      { body: '"b"' },
      { body: ' [ 3 ] ' },
    ])
  })

  test('a line that is not JSON is its own error', async () => {
    const queue = await newQueue()
    expect(await resultsOf(await lines(queue, '1\nnope\n2'))).toMatchObject([
      { index: 0, id: expect.any(String) },
      { index: 1, error: { code: 'malformed_json' } },
      { index: 2, id: expect.any(String) },
    ])
    expect(await refusal(await lines(queue, '1\nnope', '?atomic=true'))).toEqual(invalidField('/1'))
  })

  test('none and more than a thousand are 422', async () => {
    const queue = await newQueue()
    expect(await refusal(await lines(queue, '\n\n'))).toEqual(invalidField(''))
    expect(await refusal(await lines(queue, '1\n'.repeat(1001)))).toEqual(invalidField(''))
    expect(await resultsOf(await lines(queue, '1\n'.repeat(1000)))).toHaveLength(1000)
  })
})

describe('trace context', () => {
  test('of the request goes with every message that has none of its own', async () => {
    const queue = await newQueue()
    const trace = (digit: string) => `00-${digit.repeat(32)}-${digit.repeat(16)}-01`
    const messages = [{ body: 'a' }, { body: 'b', headers: { traceparent: trace('2') } }]
    await app.request(`/v1/queues/${queue}/messages/batch`, {
      method: 'POST',
      json: { messages },
      headers: { traceparent: trace('1') },
    })
    expect(await app.receive(queue, '?max=5')).toMatchObject([
      { headers: { traceparent: trace('1') } },
      { headers: { traceparent: trace('2') } },
    ])
  })
})
