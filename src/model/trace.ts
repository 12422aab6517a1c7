/** Traces (W3C Trace Context): which messages have one, and what a part says that adds to it. */
import type { Headers } from './message.ts'

export type SpanKind = 'server' | 'client' | 'consumer' | 'internal'
export type SpanFacts = Record<string, string | number | boolean>

/** A part of a trace (W3C Trace Context), from `begin` to `end`. */
export type Span = {
  /** `traceparent`, and `tracestate` if there is one: for the headers of what this leads to. */
  readonly context: Headers
  set(facts: SpanFacts): void
  /** `error`: why it failed. */
  end(error?: string): void
}

export type SpanOptions = {
  kind: SpanKind
  /** Headers that may have a traceparent; without one a new trace begins. */
  parent: Headers | null
  /** Headers of others that this is about too. */
  links?: readonly Headers[]
  facts?: SpanFacts
}

/** Absent where traces are off. */
export type Tracing = { begin(name: string, options: SpanOptions): Span }

/** https://www.w3.org/TR/trace-context/#traceparent-header. One of a later version may have more at its end. */
const traceparentPattern = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$/

/** null: there is none, or it is not valid, which is the same. */
export function parseTraceparent(
  text: string | undefined,
): { traceId: string; spanId: string; sampled: boolean } | null {
  const found = text === undefined ? null : traceparentPattern.exec(text)
  if (!found) return null
  const [, traceId = '', spanId = '', flags = ''] = found
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 }
}

/** Those who are traced, each context once. */
export function tracedOf(messages: Iterable<{ headers: Headers | null }>, most: number): Headers[] {
  const found = new Map<string, Headers>()
  for (const { headers } of messages) {
    const traceparent = headers?.traceparent
    if (!headers || traceparent === undefined || found.has(traceparent)) continue
    if (parseTraceparent(traceparent)?.sampled) found.set(traceparent, headers)
    if (found.size >= most) break
  }
  return [...found.values()]
}
