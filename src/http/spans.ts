/** The span of a request: part of the caller's trace, and what a message that it sends carries on. */
import { BrokerError, type Span, type Tracing } from '../model/index.ts'
import type { Answer } from './answer.ts'
import type { Endpoint } from './endpoint.ts'
import type { Exchange } from './exchange.ts'
import { traceAsked } from './message_headers.ts'

/** Probes and pages are nobody's work. */
export function spanOf(tracing: Tracing, { needs, route }: Endpoint, exchange: Exchange): Span | undefined {
  if (needs === 'nothing' || needs === 'anyone') return undefined
  const { method } = exchange
  const facts = { 'http.request.method': method, 'http.route': route.path, 'postern.request_id': exchange.requestId }
  return tracing.begin(`${method} ${route.path}`, { kind: 'server', parent: traceAsked(exchange), facts })
}

export function endSpan(span: Span, { queue, topic }: Exchange, { status }: Answer, error: unknown): void {
  const destination = queue ?? topic
  span.set({
    'http.response.status_code': status,
    ...(destination === undefined ? {} : { 'messaging.system': 'postern', 'messaging.destination.name': destination }),
    ...(error instanceof BrokerError ? { 'error.type': error.code } : {}),
  })
  span.end(status >= 500 ? (error instanceof BrokerError ? error.code : 'internal') : undefined)
}
