/**
 * Every error leaves as RFC 9457 problem+json, and its status comes from one table over the closed list of codes. What is
 * not a BrokerError is our own fault: a 500 that tells the caller nothing but the request's id.
 */
import { BrokerError, type Code, type Problem as Finding } from '../model/index.ts'
import type { Answer } from './answer.ts'

const table = {
  malformed_json: { status: 400, title: 'Malformed JSON' },
  malformed_request: { status: 400, title: 'Malformed request' },
  unauthenticated: { status: 401, title: 'Not authenticated' },
  forbidden: { status: 403, title: 'Forbidden' },
  not_found: { status: 404, title: 'Not found' },
  queue_not_found: { status: 404, title: 'Queue not found' },
  message_not_found: { status: 404, title: 'Message not found' },
  key_not_found: { status: 404, title: 'API key not found' },
  topic_not_found: { status: 404, title: 'Topic not found' },
  binding_not_found: { status: 404, title: 'Binding not found' },
  subscription_not_found: { status: 404, title: 'Subscription not found' },
  schedule_not_found: { status: 404, title: 'Schedule not found' },
  task_not_found: { status: 404, title: 'Task not found' },
  method_not_allowed: { status: 405, title: 'Method not allowed' },
  queue_not_empty: { status: 409, title: 'Queue not empty' },
  topic_not_empty: { status: 409, title: 'Topic not empty' },
  key_not_blocked: { status: 409, title: 'Key not blocked' },
  changed_meanwhile: { status: 409, title: 'Changed meanwhile' },
  setting_is_fixed: { status: 409, title: 'Setting is fixed' },
  lease_lost: { status: 409, title: 'Lease lost' },
  message_leased: { status: 409, title: 'Message leased' },
  body_too_large: { status: 413, title: 'Body too large' },
  headers_too_large: { status: 431, title: 'Headers too large' },
  unsupported_media_type: { status: 415, title: 'Unsupported media type' },
  invalid_value: { status: 422, title: 'Invalid value' },
  invalid_receipt: { status: 422, title: 'Invalid receipt' },
  queue_full: { status: 429, title: 'Queue full' },
  rate_limited: { status: 429, title: 'Rate limited' },
  unavailable: { status: 503, title: 'Unavailable' },
  internal: { status: 500, title: 'Internal error' },
} as const satisfies Record<Code, { status: number; title: string }>

/** The status that a code is answered with. */
export const statusOf = (code: Code): number => table[code].status

/** The answer to anything thrown. Never lets the text of an unexpected error out. */
export function problem(thrown: unknown, requestId: string): Answer {
  const error = thrown instanceof BrokerError ? thrown : new BrokerError('internal', '')
  const { status, title } = table[error.code]
  const { code, message: detail, errors, problems } = error
  return problemAnswer({ status, title, code, detail, errors, problems }, requestId, {
    ...(status === 401 ? { 'WWW-Authenticate': 'Bearer realm="postern"' } : {}),
    ...(status === 429 || status === 503
      ? { 'Retry-After': String(Math.max(1, Math.ceil(error.retryAfterS ?? 1))) }
      : {}),
  })
}

type Problem = {
  status: number
  title: string
  code: Code
  detail: string
  errors: readonly { pointer: string; detail: string }[]
  problems?: readonly Finding[]
}

/** `requestId` must be one that is safe in a URN; see exchange.ts. */
export function problemAnswer(problem: Problem, requestId: string, headers: Record<string, string>): Answer {
  const { code, status, title, detail, errors, problems = [] } = problem
  return {
    status,
    body: JSON.stringify({
      type: `urn:postern:problem:${code}`,
      title,
      status,
      ...(detail === '' ? {} : { detail }),
      instance: `urn:postern:request:${requestId}`,
      code,
      ...(errors.length === 0 ? {} : { errors }),
      ...(problems.length === 0 ? {} : { problems }),
    }),
    headers: { 'Content-Type': 'application/problem+json', ...headers },
  }
}
