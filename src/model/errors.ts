/**
 * The closed table of things that can go wrong for a caller. Every edge maps every code, so a new one does not
 * compile until each edge has an answer for it.
 */
import type { Problem } from './diagnosis.ts'

export const codes = [
  'malformed_json',
  'malformed_request',
  'unauthenticated',
  'forbidden',
  'not_found',
  'queue_not_found',
  'message_not_found',
  'key_not_found',
  'topic_not_found',
  'binding_not_found',
  'subscription_not_found',
  'schedule_not_found',
  'task_not_found',
  'method_not_allowed',
  'queue_not_empty',
  'topic_not_empty',
  'key_not_blocked',
  'setting_is_fixed',
  'changed_meanwhile',
  'lease_lost',
  'message_leased',
  'body_too_large',
  'headers_too_large',
  'unsupported_media_type',
  'invalid_value',
  'invalid_receipt',
  'queue_full',
  'rate_limited',
  'unavailable',
  'internal',
] as const

export type Code = (typeof codes)[number]

/** One invalid value: a JSON pointer (RFC 6901) into the body, or `query/NAME`, `path/NAME`, `header/NAME`, and why. */
export type FieldError = { pointer: string; detail: string }

/** What the broker throws. `detail` is for the caller and says what to do; nothing secret belongs in it. */
export class BrokerError extends Error {
  readonly code: Code
  readonly errors: readonly FieldError[]
  /** Seconds after which a retry is worth it, for `unavailable`, `queue_full` and `rate_limited`. */
  readonly retryAfterS: number | undefined
  /** What is wrong with the gateway, for who may know. */
  readonly problems: readonly Problem[]

  constructor(
    code: Code,
    detail: string,
    more: {
      errors?: readonly FieldError[]
      retryAfterS?: number
      problems?: readonly Problem[]
      cause?: unknown
    } = {},
  ) {
    super(detail, { cause: more.cause })
    this.name = 'BrokerError'
    this.code = code
    this.errors = more.errors ?? []
    this.retryAfterS = more.retryAfterS
    this.problems = more.problems ?? []
  }
}

/** The 422 for one field. */
export const invalid = (pointer: string, detail: string): BrokerError =>
  new BrokerError('invalid_value', `${pointer || 'The body'}: ${detail}`, { errors: [{ pointer, detail }] })
