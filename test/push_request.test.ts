/** What leaves for an endpoint: whose header wins, which never leave, and the three formats. */
import { CloudEvent, HTTP } from 'cloudevents'
import { Webhook } from 'standardwebhooks'
import { describe, expect, test } from 'vitest'
import { configuredHeaderError, type SubscriptionFormat } from '../src/model/index.ts'
import { newSecret, webhookRequest } from '../src/push/index.ts'

const secrets = [newSecret(), newSecret()]
const nowMs = Date.now()
const facts = { secrets, nowMs, attempt: 3, version: '1.2.3' }
const enqueuedAt = new Date('2026-01-02T03:04:05.678Z')

type Message = Parameters<typeof webhookRequest>[0]
type Target = Parameters<typeof webhookRequest>[1]

const message = (changed: Partial<Message> = {}): Message => ({
  id: 'msg_00000000abc',
  body: Buffer.from('{"amount":1.00}'),
  contentType: 'application/json',
  headers: {},
  key: null,
  priority: 5,
  attempt: 3,
  enqueuedAt,
  ...changed,
})
const target = (changed: Partial<Target> = {}): Target => ({
  id: 'sub_1',
  format: 'raw',
  headers: {},
  source: { queue: 'orders' },
  queue: 'orders',
  ...changed,
})
const headersOf = (headers: Record<string, string>, changed: Partial<Target> = {}): Record<string, string> =>
  webhookRequest(message({ headers }), target(changed), facts).headers

const formats: SubscriptionFormat[] = ['raw', 'cloudevents', 'envelope']

describe('every format', () => {
  test.each(formats)('%s is signed over the bytes that are sent, by every secret', (format) => {
    const sent = webhookRequest(message({ body: Buffer.from('Grüße 🎉') }), target({ format }), facts)
    for (const secret of secrets)
      expect(() => new Webhook(secret).verify(sent.body, sent.headers, { jsonParse: false })).not.toThrow()
  })

  test.each(formats)("%s carries Postern's own headers", (format) => {
    const { headers } = webhookRequest(message({ headers: { traceparent: '00-a-b-01' } }), target({ format }), facts)
    expect(headers).toMatchObject({
      'content-type': 'application/json',
      'user-agent': 'Postern/1.2.3',
      'webhook-id': 'msg_00000000abc',
      'webhook-timestamp': String(Math.floor(nowMs / 1000)),
      'webhook-signature': expect.stringMatching(/^v1,\S{44} v1,\S{44}$/),
      'postern-attempt': '3',
      'postern-subscription': 'sub_1',
      traceparent: '00-a-b-01',
    })
    expect(headers).not.toHaveProperty('content-length')
  })

  test('the id stays and the timestamp moves with each attempt', () => {
    const first = webhookRequest(message(), target(), { ...facts, attempt: 1 }).headers
    const later = webhookRequest(message(), target(), { ...facts, attempt: 2, nowMs: nowMs + 5000 }).headers
    expect(later['webhook-id']).toBe(first['webhook-id'])
    expect(Number(later['webhook-timestamp'])).toBe(Number(first['webhook-timestamp']) + 5)
    expect(later['webhook-signature']).not.toBe(first['webhook-signature'])
  })
})

describe('headers', () => {
  test.each([
    'connection',
    'keep-alive',
    'proxy-authorization',
    'proxy-connection',
    'proxy-anything',
    'te',
    'trailer',
    'transfer-encoding',
    'upgrade',
    'host',
    'content-length',
    'expect',
    'authorization',
    ':path',
    'a b',
    'a\r\nb',
    'ünicode',
  ])('%j of a message never leaves', (name) => expect(headersOf({ [name]: 'x' })).not.toHaveProperty([name]))

  test.each([
    'webhook-id',
    'webhook-timestamp',
    'webhook-signature',
    'postern-attempt',
    'postern-subscription',
    'content-type',
    'user-agent',
  ])('%s of a message is replaced', (name) => expect(headersOf({ [name]: 'forged' })[name]).not.toBe('forged'))

  test('webhook-anything of a message never leaves', () =>
    expect(headersOf({ 'webhook-secret': 'x' })).not.toHaveProperty('webhook-secret'))

  test.each(['x-tenant', 'cookie', 'content-encoding', 'tracestate', 'baggage', 'postern-topic', 'ce-type', 'accept'])(
    '%s of a message goes along',
    (name) => expect(headersOf({ [name]: 'x' })[name]).toBe('x'),
  )

  test.each(['a\rb', 'a\nb', 'a\r\nx-injected: 1', 'a\u0000b', 'a\u007fb', 'a\u001bb'])(
    'a value that would split the line never leaves: %j',
    (value) => expect(headersOf({ 'x-value': value })).not.toHaveProperty('x-value'),
  )

  test('a value beyond Latin-1 leaves as its UTF-8 bytes', () => {
    const headers = headersOf({ 'x-name': 'Grüße 🎉', 'x-tab': 'a\tb' }, { headers: { 'x-city': 'Zürich' } })
    expect(Buffer.from(headers['x-name'] ?? '', 'latin1').toString('utf8')).toBe('Grüße 🎉')
    expect(Buffer.from(headers['x-city'] ?? '', 'latin1').toString('utf8')).toBe('Zürich')
    expect(headers['x-tab']).toBe('a\tb')
    for (const value of Object.values(headers)) expect(value).toMatch(/^[\t\x20-\x7e\x80-\xff]*$/)
  })

  test("the subscription's win over the message's, and may authorize", () => {
    const configured = { Authorization: 'Bearer x', 'X-Tenant': 'configured', 'User-Agent': 'mine' }
    expect(headersOf({ 'x-tenant': 'message' }, { headers: configured })).toMatchObject({
      authorization: 'Bearer x',
      'x-tenant': 'configured',
      'user-agent': 'mine',
    })
  })

  test('what a subscription may not have does not leave either, should it have got in', () => {
    const configured = { host: 'internal', 'webhook-id': 'forged', 'x-split': 'a\r\nb', 'postern-attempt': '1' }
    const headers = headersOf({}, { headers: configured })
    expect(headers).not.toHaveProperty('host')
    expect(headers).not.toHaveProperty('x-split')
    expect(headers).toMatchObject({ 'webhook-id': 'msg_00000000abc', 'postern-attempt': '3' })
  })

  test('a header called __proto__ is one like any other', () => {
    const given = JSON.parse('{"__proto__":"x"}')
    expect(Object.entries(headersOf(given))).toContainEqual(['__proto__', 'x'])
  })
})

describe('raw', () => {
  test('is the message, byte by byte', () => {
    const body = Buffer.from([0, 1, 0xff])
    const sent = webhookRequest(message({ body, contentType: 'image/png' }), target(), facts)
    expect(sent.body).toEqual(body)
    expect(sent.headers['content-type']).toBe('image/png')
  })
})

describe('cloudevents', () => {
  const eventOf = (changed: Partial<Message> = {}, source: Target['source'] = { queue: 'orders' }) => {
    const { headers, body } = webhookRequest(message(changed), target({ format: 'cloudevents', source }), facts)
    const event = HTTP.toEvent({ headers: { ...headers }, body: body.toString() })
    if (!(event instanceof CloudEvent)) throw new Error('not one event')
    return { event, headers, body }
  }

  test('is a valid event in binary mode, with the body as it is', () => {
    const { event, body } = eventOf()
    expect(event.validate()).toBe(true)
    expect(event).toMatchObject({
      specversion: '1.0',
      id: 'msg_00000000abc',
      source: '/queues/orders',
      type: 'postern.message',
      time: enqueuedAt.toISOString(),
      datacontenttype: 'application/json',
      data: { amount: 1 },
    })
    expect(event.subject).toBeUndefined()
    expect(body.toString()).toBe('{"amount":1.00}')
  })

  test('names topic, routing key and the type the message says', () => {
    const headers = { 'postern-routing-key': 'order.created', 'ce-type': 'shop.order.created' }
    const { event } = eventOf({ headers }, { topic: 'events', pattern: '#', filter: null })
    expect(event).toMatchObject({ source: '/topics/events', subject: 'order.created', type: 'shop.order.created' })
  })

  test('no other ce- header of a message contradicts it', () => {
    const { headers } = eventOf({
      headers: { 'ce-id': 'forged', 'ce-source': 'forged', 'ce-specversion': '9', 'ce-x': '1' },
    })
    expect(headers).toMatchObject({
      'ce-id': 'msg_00000000abc',
      'ce-source': '/queues/orders',
      'ce-specversion': '1.0',
    })
    expect(headers).not.toHaveProperty('ce-x')
  })

  test('values are percent-encoded as the binding says', () => {
    const { headers } = eventOf({ headers: { 'postern-routing-key': 'a "b" 100% ü€🎉\r\n' } })
    expect(headers['ce-subject']).toBe('a%20%22b%22%20100%25%20%C3%BC%E2%82%AC%F0%9F%8E%89%0D%0A')
    expect(decodeURIComponent(headers['ce-subject'] ?? '')).toBe('a "b" 100% ü€🎉\r\n')
  })
})

describe('envelope', () => {
  const envelopeOf = (changed: Partial<Message> = {}, source: Target['source'] = { queue: 'orders' }) => {
    const sent = webhookRequest(message(changed), target({ format: 'envelope', source }), facts)
    return { ...sent, text: sent.body.toString(), json: JSON.parse(sent.body.toString()) }
  }

  test('says all there is to know about the message', () => {
    const headers = { 'x-tenant': 'a', 'postern-routing-key': 'order.created' }
    const source = { topic: 'events', pattern: '#', filter: null }
    expect(envelopeOf({ headers, key: 'k', priority: 9 }, source).json).toEqual({
      id: 'msg_00000000abc',
      attempt: 3,
      topic: 'events',
      routing_key: 'order.created',
      subscription: 'sub_1',
      enqueued_at: '2026-01-02T03:04:05.678Z',
      content_type: 'application/json',
      headers,
      key: 'k',
      priority: 9,
      body: { amount: 1 },
    })
  })

  test('of a queue has the queue and no routing key', () => {
    const { json } = envelopeOf()
    expect(json).toMatchObject({ queue: 'orders', key: null })
    expect(json).not.toHaveProperty('topic')
    expect(json).not.toHaveProperty('routing_key')
  })

  test.each([
    ['application/json', '{"amount":1.00,"big":12345678901234567890}'],
    ['application/json; charset=utf-8', ' [1.00 ,2]\n'],
    ['APPLICATION/JSON', '"text"'],
    ['application/cloudevents+json', 'null'],
    ['application/vnd.shop.v1+json;v=1', '-0'],
  ])('JSON goes in as it was written: %s %s', (contentType, body) => {
    const { text, json } = envelopeOf({ contentType, body: Buffer.from(body) })
    expect(text).toContain(`"body":${body}`)
    expect(json.body).toEqual(JSON.parse(body))
  })

  test.each([
    ['application/json', '{"amount":1.00'],
    ['application/json', ''],
    ['application/json', '1} , "id":"forged"'],
    ['application/json', '\ufeff{}'],
    ['text/plain', '{"amount":1}'],
    ['text/json-seq', '1'],
    ['application/jsonp', '1'],
    ['text/plain', 'Grüße "🎉"\n\u2028\u0000'],
  ])('other text is a string: %s %j', (contentType, body) => {
    expect(envelopeOf({ contentType, body: Buffer.from(body) }).json.body).toBe(body)
  })

  test.each(['application/json', 'text/plain', 'application/octet-stream'])(
    'bytes that are no text are base64: %s',
    (contentType) => {
      const body = Buffer.from([0x7b, 0xff, 0x7d])
      const { json } = envelopeOf({ contentType, body })
      expect(json).not.toHaveProperty('body')
      expect(Buffer.from(json.body_base64, 'base64')).toEqual(body)
    },
  )

  test('is JSON itself, whatever the message was', () => {
    const given = { 'content-encoding': 'gzip', 'content-language': 'de', 'content-digest': 'x', 'x-tenant': 'a' }
    const { headers, json } = envelopeOf({ contentType: 'image/png', headers: given })
    expect(headers['content-type']).toBe('application/json')
    expect(headers).toMatchObject({ 'x-tenant': 'a' })
    for (const name of ['content-encoding', 'content-language', 'content-digest'])
      expect(headers).not.toHaveProperty(name)
    expect(json.headers).toEqual(given)
  })
})

describe('a configured header', () => {
  test.each([
    ['Authorization', 'Bearer x'],
    ['X-Tenant', 'Zürich 🎉'],
    ['user-agent', 'mine'],
    ['x-empty', ''],
    ['cookie', 'a=b\tc'],
  ])('%s: %s is fine', (name, value) => expect(configuredHeaderError(name, value)).toBeNull())

  test.each([
    ['', 'x'],
    ['a b', 'x'],
    ['a:b', 'x'],
    [':path', 'x'],
    ['ü', 'x'],
    ['a\r\nb', 'x'],
    ['x', 'a\r\nb'],
    ['x', 'a\nb'],
    ['x', 'a\u0000b'],
    ['x', 'a\u007fb'],
    ['x', '\ud800'],
    ['x', 1],
    ['x', null],
    ['x', ['a']],
    ['Host', 'x'],
    ['Connection', 'x'],
    ['Keep-Alive', 'x'],
    ['Proxy-Authorization', 'x'],
    ['Proxy-Anything', 'x'],
    ['TE', 'x'],
    ['Trailer', 'x'],
    ['Transfer-Encoding', 'chunked'],
    ['Upgrade', 'x'],
    ['Expect', '100-continue'],
    ['Content-Length', '1'],
    ['Webhook-Id', 'x'],
    ['Webhook-Anything', 'x'],
    ['Postern-Attempt', '1'],
    ['Postern-Subscription', 'x'],
  ])('%j: %j is refused, with a reason', (name, value) =>
    expect(configuredHeaderError(name, value)).toEqual(expect.any(String)),
  )
})
