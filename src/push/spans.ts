/** The span of an attempt: part of the message's trace, and what the endpoint is told to go on from. */
import type { Assignment } from '../broker/index.ts'
import type { Delivery, Span, Tracing, Verdict } from '../model/index.ts'
import type { SendResult } from './sender.ts'

/** The path of a URL is often a secret, so only its host is told. */
export const spanOf = (
  tracing: Tracing,
  { id, url, queue }: Assignment,
  { id: message, headers, attempt }: Delivery,
): Span =>
  tracing.begin('webhook attempt', {
    kind: 'client',
    parent: headers,
    facts: {
      'http.request.method': 'POST',
      'server.address': new URL(url).hostname,
      'messaging.system': 'postern',
      'messaging.destination.name': queue,
      'messaging.message.id': message,
      'postern.subscription': id,
      'postern.attempt': attempt,
    },
  })

export function endSpan(span: Span, { outcome }: SendResult, verdict: Verdict): void {
  span.set({
    'postern.verdict': verdict.action,
    ...(outcome.kind === 'answer' ? { 'http.response.status_code': outcome.status } : { 'error.type': outcome.code }),
  })
  span.end(verdict.action === 'settle' ? undefined : verdict.error)
}
