/** Messages as JSON: a body is its exact text when its bytes are UTF-8, and base64 otherwise. */
import { isUtf8 } from 'node:buffer'
import { z } from '@hono/zod-openapi'
import { type Delivery, messageStates, type StoredMessage } from '../model/index.ts'
import { timeOut } from './fields.ts'

const common = {
  id: z.string(),
  body: z.string().optional().openapi({ description: 'The exact text, when the bytes are valid UTF-8.' }),
  body_base64: z.string().optional().openapi({ description: 'Instead of body, when they are not.' }),
  content_type: z.string(),
  headers: z.record(z.string(), z.string()),
  key: z.string().nullable(),
  priority: z.int(),
  enqueued_at: timeOut,
}

export const deliveryOut = z
  .strictObject({ ...common, receipt: z.string(), attempt: z.int(), lease_expires_at: timeOut })
  .openapi('Delivery')

export const messageOut = z
  .strictObject({
    ...common,
    state: z.enum(messageStates),
    attempts: z.int(),
    expires_at: timeOut.nullable(),
    available_at: timeOut.optional().openapi({ description: 'Of a delayed message.' }),
    lease_expires_at: timeOut.optional().openapi({ description: 'Of a leased message.' }),
    reason: z
      .enum(['max_attempts', 'rejected', 'expired', 'gone'])
      .optional()
      .openapi({ description: 'Of a dead letter, as the next three.' }),
    last_error: z.string().nullable().optional(),
    died_at: timeOut.optional(),
    origin: z.string().optional().openapi({ description: 'The queue it died in.' }),
  })
  .openapi('Message')

export function deliveryJson(delivery: Delivery): z.input<typeof deliveryOut> {
  return {
    id: delivery.id,
    receipt: delivery.receipt,
    ...bodyJson(delivery.body),
    content_type: delivery.contentType,
    headers: delivery.headers,
    key: delivery.key,
    priority: delivery.priority,
    attempt: delivery.attempt,
    enqueued_at: delivery.enqueuedAt.toISOString(),
    lease_expires_at: delivery.leaseExpiresAt.toISOString(),
  }
}

export function messageJson(message: StoredMessage): z.input<typeof messageOut> {
  const { dead } = message
  return {
    id: message.id,
    state: message.state,
    ...bodyJson(message.body),
    content_type: message.contentType,
    headers: message.headers,
    key: message.key,
    priority: message.priority,
    attempts: message.attempts,
    enqueued_at: message.enqueuedAt.toISOString(),
    expires_at: message.expiresAt?.toISOString() ?? null,
    ...(message.availableAt ? { available_at: message.availableAt.toISOString() } : {}),
    ...(message.leaseExpiresAt ? { lease_expires_at: message.leaseExpiresAt.toISOString() } : {}),
    ...(dead
      ? { reason: dead.reason, last_error: dead.lastError, died_at: dead.diedAt.toISOString(), origin: dead.origin }
      : {}),
  }
}

export const bodyJson = (body: Buffer): { body: string } | { body_base64: string } =>
  isUtf8(body) ? { body: body.toString('utf8') } : { body_base64: body.toString('base64') }
