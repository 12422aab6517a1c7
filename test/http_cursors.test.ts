/** Cursors are opaque: whatever somebody makes up is refused or leads nowhere, on every list. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { defaultSubscription } from '../src/model/index.ts'
import { type TestApp, testApp } from './support/app.ts'

let app: TestApp
let lists: string[]
beforeAll(async () => {
  app = await testApp()
  const { admin } = app.broker
  await admin.putQueue('q', {})
  await admin.putTopic('t', {})
  const settings = { ...defaultSubscription, url: 'http://127.0.0.1:9/' }
  const { id } = await admin.createSubscription({ queue: 'q' }, settings, 'whsec_AAAA')
  lists = [
    ...['ready', 'delayed', 'leased', 'dead'].map((state) => `/v1/queues/q/messages?state=${state}`),
    ...['/v1/queues?', '/v1/topics?', '/v1/topics/t/bindings?', '/v1/subscriptions?', '/v1/keys?'],
    `/v1/subscriptions/${id}/attempts?`,
  ]
})
afterAll(() => app.stop())

const madeUp: unknown[] = [
  ...['x', 1, 1.5, 1e99, -1, null, true, [], {}, [1]],
  ...['a\0b', 'x', 1, 1.5, 1e99, -1e99, null, { a: 1 }].map((after) => ({ after })),
  ...[1e9, 1e15, -1e15, 1.5, 'x', 1e300].flatMap((value) => [
    { first: value, second: value },
    { at: value, id: 'x' },
  ]),
  { at: 0, id: '\0' },
]

test('a made-up cursor is 422, or an empty page', async () => {
  for (const list of lists)
    for (const value of madeUp) {
      const cursor = Buffer.from(JSON.stringify(value)).toString('base64url')
      const answer = await app.request(`${list}&cursor=${cursor}`)
      expect([200, 422], `${list} ${JSON.stringify(value)}`).toContain(answer.status)
    }
})
