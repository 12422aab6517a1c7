/** `__proto__` is a header name like any other, wherever headers come in or go out. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { invalidField, refusal, type TestApp, testApp } from './support/app.ts'

let app: TestApp
beforeAll(async () => {
  app = await testApp()
  await app.request('/v1/queues/q', { method: 'PUT' })
  await app.request('/v1/topics/t', { method: 'PUT' })
  await app.request('/v1/topics/t/bindings/b', { method: 'PUT', json: { queue: 'q' } })
})
afterAll(() => app.stop())

const headers = '{"__proto__":"1","b":"2"}'
/** As text: an object literal would set the prototype. */
const call = (method: string, path: string, body: string) =>
  app.request(path, { method, body, headers: { 'content-type': 'application/json' } })
/** In the text of an answer, because a schema's parse would lose it as well. */
const kept = (text: string) => ({
  one: /"headers":\{[^}]*"__proto__":"1"/.test(text),
  two: /"headers":\{[^}]*"b":"2"/.test(text),
})
const both = { one: true, two: true }
const received = async () => kept(await (await app.request('/v1/queues/q/receive?max=10', { method: 'POST' })).text())

test.each([['/v1/queues/q/messages'], ['/v1/topics/t/messages']])('in a request to %s', async (path) => {
  await app.request(path, {
    method: 'POST',
    body: 'x',
    headers: { 'Postern-Header-__proto__': '1', 'Postern-Header-b': '2' },
  })
  expect(await received()).toEqual(both)
})

test('in a batch', async () => {
  await call('POST', '/v1/queues/q/messages/batch', `{"messages":[{"body":"x","headers":${headers}}]}`)
  expect(await received()).toEqual(both)
})

test('in a change of a message', async () => {
  const [id] = await app.send('q', 'x')
  const changed = await call('PATCH', `/v1/queues/q/messages/${id}`, `{"headers":${headers}}`)
  expect(kept(await changed.text())).toEqual(both)
  expect(await received()).toEqual(both)
})

test.each([['"queue":"q"'], ['"topic":"t"']])('in a schedule with %s', async (target) => {
  const put = await call('PUT', '/v1/schedules/s', `{"cron":"@yearly",${target},"body":"x","headers":${headers}}`)
  expect(kept(await put.text())).toEqual(both)
  await app.request('/v1/schedules/s/run', { method: 'POST' })
  expect(await received()).toEqual(both)
})

test('in a subscription', async () => {
  const made = await call('POST', '/v1/subscriptions', `{"queue":"q","url":"http://example.com","headers":${headers}}`)
  const text = await made.text()
  expect(kept(text)).toEqual(both)
  const seen = await app.request(`/v1/subscriptions/${JSON.parse(text).id}`)
  expect(kept(await seen.text())).toEqual(both)
})

test('in a filter', async () => {
  const bound = await call('PUT', '/v1/topics/t/bindings/b', '{"queue":"q","filter":{"headers":{"__proto__":["1"]}}}')
  expect(await bound.text()).toContain('"__proto__":["1"]')
  const publish = async (value: string) =>
    (
      await app.request('/v1/topics/t/messages', {
        method: 'POST',
        body: 'x',
        headers: { 'Postern-Header-__proto__': value },
      })
    ).json()
  expect(await publish('1')).toMatchObject({ matched: 1 })
  expect(await publish('2')).toMatchObject({ matched: 0 })
})

test('of a field it is unknown', async () => {
  expect(await refusal(await call('PUT', '/v1/queues/q', '{"__proto__":{"lease":1}}'))).toEqual(
    invalidField('/__proto__'),
  )
})
