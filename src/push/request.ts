/** What goes over the wire: a message as a webhook request, in one of three formats, signed. */
import { isUtf8 } from 'node:buffer'
import { setOwn } from '../base/index.ts'
import type { Assignment } from '../broker/index.ts'
import {
  configuredHeaderError,
  type Delivery,
  type Headers,
  isSendable,
  mayTravel,
  type Subscription,
} from '../model/index.ts'
import { sign } from './signature.ts'

export type WebhookMessage = Pick<
  Delivery,
  'id' | 'body' | 'contentType' | 'headers' | 'key' | 'priority' | 'attempt' | 'enqueuedAt'
>
export type WebhookTarget = Pick<Subscription, 'id' | 'format' | 'headers' | 'source' | 'queue'>
export type WebhookRequest = { headers: Record<string, string>; body: Buffer }

/** `secrets`: those that sign; `attempt`: which delivery of the message this is, from 1. */
type Facts = { secrets: readonly string[]; nowMs: number; attempt: number; version: string }

/**
 * Headers have lower-case names and values of Latin-1 characters, one for each byte. The subscription's own win over the message's,
 * and what Postern says about the delivery wins over both.
 */
export function webhookRequest(message: WebhookMessage, target: WebhookTarget, facts: Facts): WebhookRequest {
  const { headers, contentType, body } = formats[target.format](message, target)
  const timestampS = Math.floor(facts.nowMs / 1000)
  const all: Record<string, string> = {}
  for (const [name, value] of Object.entries(message.headers))
    if (mayTravel(name) && isSendable(value) && !name.startsWith(replaced[target.format]))
      setOwn(all, name, headerBytes(value))
  Object.assign(all, headers)
  all['user-agent'] = `Postern/${facts.version}`
  all['content-type'] = headerBytes(contentType)
  for (const [name, value] of Object.entries(target.headers))
    if (configuredHeaderError(name, value) === null) setOwn(all, name.toLowerCase(), headerBytes(value))
  all['webhook-id'] = message.id
  all['webhook-timestamp'] = String(timestampS)
  all['webhook-signature'] = sign(facts.secrets, message.id, timestampS, body)
  all['postern-attempt'] = String(facts.attempt)
  all['postern-subscription'] = target.id
  return { headers: all, body }
}

/** By whoever delivers: signed with the secrets that are live now. */
export function requestFor(
  assignment: Assignment,
  delivery: Delivery,
  nowMs: number,
  version: string,
): { headers: Record<string, string>; body: Buffer } {
  const live = assignment.secrets.filter((each) => each.expiresMs === null || each.expiresMs > nowMs)
  const secrets = live.map((each) => each.secret)
  return webhookRequest(delivery, assignment, { secrets, nowMs, attempt: delivery.attempt, version })
}

/**
 * What a format says itself, and a message's headers of that beginning do not: an envelope is neither gzip, nor in German, because
 * the message in it is.
 */
const replaced: Record<Subscription['format'], string> = {
  raw: 'content-type',
  cloudevents: 'ce-',
  envelope: 'content-',
}

type Formatted = { headers: Record<string, string>; contentType: string; body: Buffer }

const formats: Record<Subscription['format'], (message: WebhookMessage, target: WebhookTarget) => Formatted> = {
  raw: ({ contentType, body }) => ({ headers: {}, contentType, body }),
  cloudevents: (message, target) => ({
    headers: cloudEventsHeaders(message, target),
    contentType: message.contentType,
    body: message.body,
  }),
  envelope: (message, target) => ({ headers: {}, contentType: 'application/json', body: envelope(message, target) }),
}

const routingKeyOf = (headers: Headers): string | undefined => headers['postern-routing-key']

/**
 * CloudEvents 1.0, binary mode (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md, 3.1):
 * attributes are headers. The type is the message's own `ce-type`, when it has one; the subject is the routing key.
 */
function cloudEventsHeaders(
  { id, headers, enqueuedAt }: WebhookMessage,
  { source }: WebhookTarget,
): Record<string, string> {
  const subject = routingKeyOf(headers)
  return {
    'ce-specversion': '1.0',
    'ce-id': id,
    'ce-source': 'topic' in source ? `/topics/${source.topic}` : `/queues/${source.queue}`,
    'ce-type': attributeValue(headers['ce-type'] || 'postern.message'),
    'ce-time': enqueuedAt.toISOString(),
    ...(subject === undefined ? {} : { 'ce-subject': attributeValue(subject) }),
  }
}

/** Percent-encodes what the binding (3.1.3.2) wants encoded: all but printable ASCII, and space, quote and percent. */
const attributeValue = (text: string): string =>
  text.replace(/[^\x21-\x7e]|["%]/gu, (character) => {
    const bytes = [...Buffer.from(character, 'utf8')]
    return bytes.map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join('')
  })

/** A body that says it is JSON, and is, goes in as it was sent: 1.00 stays 1.00. */
function envelope(message: WebhookMessage, { id: subscription, source }: WebhookTarget): Buffer {
  const routingKey = routingKeyOf(message.headers)
  const head = JSON.stringify({
    id: message.id,
    ...('topic' in source ? { topic: source.topic } : { queue: source.queue }),
    ...(routingKey === undefined ? {} : { routing_key: routingKey }),
    subscription,
    attempt: message.attempt,
    enqueued_at: message.enqueuedAt.toISOString(),
    content_type: message.contentType,
    headers: message.headers,
    key: message.key,
    priority: message.priority,
  })
  return Buffer.concat([Buffer.from(`${head.slice(0, -1)},`), bodyField(message), Buffer.from('}')])
}

function bodyField({ body, contentType }: WebhookMessage): Buffer {
  if (!isUtf8(body)) return Buffer.from(`"body_base64":"${body.toString('base64')}"`)
  const text = body.toString('utf8')
  if (/^application\/(?:[^;]+\+)?json\s*(?:;|$)/i.test(contentType) && isJson(text))
    return Buffer.concat([Buffer.from('"body":'), body])
  return Buffer.from(`"body":${JSON.stringify(text)}`)
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** Text as HTTP wants it: its UTF-8 bytes, one character each. */
const headerBytes = (value: string): string =>
  /[\u0080-\uffff]/.test(value) ? Buffer.from(value, 'utf8').toString('latin1') : value
