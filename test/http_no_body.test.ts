/** Where a call takes no body, one that says something is refused before anything is done. */
import { once } from 'node:events'
import { request } from 'node:http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { endpoints, type Listening } from '../src/http/index.ts'
import { type TestApp, testApp } from './support/app.ts'
import { waitFor } from './support/wait.ts'

let app: TestApp
let server: Listening
/** For each receive that has begun, what says that its caller has gone. */
const polls: AbortSignal[] = []
beforeAll(async () => {
  app = await testApp({
    broken: (broker) => ({
      receive: (queue, options) => {
        polls.push(options.signal)
        return broker.receive(queue, options)
      },
    }),
  })
  server = await app.listen()
  await app.request('/v1/queues/q', { method: 'PUT' })
})
afterAll(() => app.stop())

const json = { 'content-type': 'application/json' }
type Refusal = { code: string; detail: string; errors: { pointer: string; detail: string }[] }

/** Over a socket, because fetch gives no GET a body. */
async function ask(method: string, path: string, headers: Record<string, string | number>, body: string) {
  const framed = 'transfer-encoding' in headers ? headers : { 'content-length': body.length, ...headers }
  const asking = request(`${server.url}${path}`, { method, headers: { ...framed, connection: 'close' } })
  asking.on('error', () => {})
  let continued = false
  asking.on('continue', () => {
    continued = true
    asking.end(body)
  })
  if (headers.expect === undefined) asking.end(body)
  else asking.flushHeaders()
  const [answer] = await once(asking, 'response')
  let text = ''
  for await (const chunk of answer) text += chunk
  return { status: answer.statusCode as number, text, continued }
}

const bodyless = endpoints.filter(({ route }) => route.request?.body === undefined)

test('there are such calls', () => expect(bodyless.length).toBeGreaterThan(30))

test.each(bodyless.map(({ route }) => [`${route.method.toUpperCase()} ${route.path}`]))(
  '%s refuses a body',
  async (name) => {
    const [method = '', path = ''] = name.split(' ')
    const { status, text } = await ask(method, path.replaceAll(/\{\w+\}/g, 'q'), json, '{"wat":1}')
    expect({ status, ...JSON.parse(text) }).toMatchObject({
      status: 422,
      code: 'invalid_value',
      errors: [{ pointer: '' }],
    })
    if (!path.startsWith('/v1')) return
    expect(JSON.parse(text).detail).toContain('this call takes no body')
  },
)

test('nothing is done, and the refusal names the parameters', async () => {
  await app.send('q', 'kept')
  const answer = await app.request('/v1/queues/q/purge', { method: 'POST', json: { state: 'dead' } })
  expect(answer.status).toBe(422)
  expect(((await answer.json()) as Refusal).detail).toBe(
    'The body: must be empty: this call takes no body; its parameters go into the query: state',
  )
  const forced = await app.request('/v1/queues/q', { method: 'DELETE', json: { force: true } })
  expect(((await forced.json()) as Refusal).detail).toContain('query: force')
  const paused = await app.request('/v1/queues/q/pause', { method: 'POST', body: 'x' })
  expect(((await paused.json()) as Refusal).errors).toEqual([
    { pointer: '', detail: 'must be empty: this call takes no body' },
  ])
  const queue = (await (await app.request('/v1/queues/q')).json()) as object
  expect(queue).toMatchObject({ paused: false, counts: { ready: 1 } })
})

test.each([[''], [' \r\n\t'], ['{}'], [' { \n } ']])('%j says nothing and passes', async (body) => {
  expect((await ask('POST', '/v1/queues/q/resume', json, body)).status).toBe(200)
  expect((await ask('GET', '/v1/queues/q', { 'transfer-encoding': 'chunked' }, body)).status).toBe(200)
})

test('the key is looked at before the body', async () => {
  const closed = await testApp({ open: false, rootKey: 'k' })
  try {
    expect((await closed.request('/v1/queues/q/pause', { method: 'POST', json: { a: 1 } })).status).toBe(401)
  } finally {
    await closed.stop()
  }
})

describe('on a connection', () => {
  test('a long one is refused by what it announces, or once it is too long to be empty', async () => {
    const megabytes = 50
    const announced = await ask(
      'POST',
      '/v1/queues/q/pause',
      { ...json, expect: '100-continue', 'content-length': megabytes * 1024 * 1024 },
      '',
    )
    expect(announced).toMatchObject({ status: 422, continued: false })
    const asking = request(`${server.url}/v1/queues/q/pause`, { method: 'POST' })
    asking.on('error', () => {})
    const answered = once(asking, 'response')
    // Never ended: it is refused all the same.
    asking.write(' '.repeat(8192))
    const [answer] = await answered
    expect(answer.statusCode).toBe(422)
    asking.destroy()
  })

  test('who asks before sending may send', async () => {
    const asked = { ...json, expect: '100-continue', 'content-length': 2 }
    expect(await ask('POST', '/v1/queues/q/resume', asked, '{}')).toMatchObject({ status: 200, continued: true })
  })

  test.each([
    ['without a body', ''],
    ['with an empty one', '{}'],
  ])('a long poll %s notices that its caller has gone', async (_, body) => {
    await app.request('/v1/queues/empty', { method: 'PUT' })
    const before = polls.length
    const asking = request(`${server.url}/v1/queues/empty/receive?wait=50s`, {
      method: 'POST',
      headers: { 'content-length': body.length },
    })
    asking.on('error', () => {})
    asking.end(body)
    await waitFor(() => expect(polls.length).toBe(before + 1))
    expect(polls[before]?.aborted).toBe(false)
    asking.destroy()
    await waitFor(() => expect(polls[before]?.aborted).toBe(true))
  })
})
