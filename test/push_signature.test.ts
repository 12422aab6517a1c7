/** Receivers verify with the libraries of Standard Webhooks; so do these tests. */
import { createHmac, randomBytes } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import { describe, expect, test } from 'vitest'
import { newSecret, sign } from '../src/push/index.ts'

const id = 'msg_00000000001'
const nowS = Math.floor(Date.now() / 1000)
const headersFor = (signature: string) => ({
  'webhook-id': id,
  'webhook-timestamp': String(nowS),
  'webhook-signature': signature,
})
const verify = (secret: string, signature: string, body: Buffer): unknown =>
  new Webhook(secret).verify(body, headersFor(signature), { jsonParse: false })

describe('signatures', () => {
  test('equal the published vector', () => {
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
    const body = Buffer.from('{"test": 2432232314}')
    expect(sign([secret], 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1_614_265_330, body)).toBe(
      'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    )
  })

  test.each([
    ['empty', Buffer.alloc(0)],
    ['JSON', Buffer.from('{"a":1.00}')],
    ['not ASCII', Buffer.from('Grüße, 世界 🎉')],
    ['with a byte order mark', Buffer.from('\ufeff{}')],
    ['with line ends of every kind', Buffer.from('a\r\nb\nc\r')],
  ])('a body that is %s verifies with the official library', (_kind, body) => {
    const secret = newSecret()
    expect(() => verify(secret, sign([secret], id, nowS, body), body)).not.toThrow()
  })

  test('are over the bytes, also where they are no text', () => {
    // The official library makes text of a body first, so the specification's own words are held against it here.
    const secret = newSecret()
    const body = Buffer.concat([Buffer.from([0, 0xff, 0xc3, 0x28]), randomBytes(1000)])
    const signed = Buffer.concat([Buffer.from(`${id}.${nowS}.`), body])
    const key = Buffer.from(secret.slice('whsec_'.length), 'base64')
    expect(sign([secret], id, nowS, body)).toBe(`v1,${createHmac('sha256', key).update(signed).digest('base64')}`)
  })

  test('every live secret signs', () => {
    const [old, current] = [newSecret(), newSecret()]
    const body = Buffer.from('{}')
    const both = sign([current, old], id, nowS, body)
    expect(both.split(' ')).toHaveLength(2)
    for (const secret of [old, current]) expect(() => verify(secret, both, body)).not.toThrow()
    expect(() => verify(newSecret(), both, body)).toThrow()
  })

  test('do not fit another body, id or time', () => {
    const secret = newSecret()
    const body = Buffer.from('{}')
    const signature = sign([secret], id, nowS, body)
    expect(() => verify(secret, signature, Buffer.from('{ }'))).toThrow()
    expect(() => verify(secret, sign([secret], 'msg_2', nowS, body), body)).toThrow()
    expect(() => verify(secret, sign([secret], id, nowS - 1, body), body)).toThrow()
  })
})

test('a new secret is 24 random bytes', () => {
  const secrets = Array.from({ length: 100 }, newSecret)
  expect(new Set(secrets).size).toBe(100)
  for (const secret of secrets) {
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{32}$/)
    expect(Buffer.from(secret.slice(6), 'base64')).toHaveLength(24)
  }
})
