/**
 * A message's own headers: checked alike whether they come as `Postern-Header-NAME` or in JSON, kept as text under
 * lower-case names, and handed out as the same bytes.
 */
import { isUtf8 } from 'node:buffer'
import { setOwn } from '../base/index.ts'
import { type FieldError, type Headers, invalid, messageLimits, parseTraceparent } from '../model/index.ts'
import { type Exchange, header, headersAfter } from './exchange.ts'
import { isWellFormed, shortText } from './fields.ts'

const namePattern = /^[!#$%&'*+.^_`|~0-9a-z-]{1,255}$/
/** What would end or split a header line. A tab is allowed (RFC 9110, 5.5). */
const forbiddenInValue = /[^\P{Cc}\t]/u
const tracestateLength = 512
const prefix = 'postern-header-'

type Checked = { headers: Headers | null; errors: FieldError[] }

/** `pointerTo` names one header in an error; without a name, all of them. */
export function checkHeaders(
  entries: readonly (readonly [string, unknown])[],
  pointerTo: (name?: string) => string,
): Checked {
  if (entries.length === 0) return { headers: null, errors: [] }
  if (entries.length > messageLimits.headers)
    return {
      headers: null,
      errors: [{ pointer: pointerTo(), detail: `must be at most ${messageLimits.headers} headers` }],
    }
  const headers: Headers = {}
  const errors: FieldError[] = []
  let bytes = 0
  for (const [given, value] of entries) {
    const name = given.toLowerCase()
    const wrong = headerError(name, value, Object.hasOwn(headers, name))
    if (wrong) errors.push({ pointer: pointerTo(given), detail: wrong })
    else {
      setOwn(headers, name, value as string)
      bytes += name.length + Buffer.byteLength(value as string)
    }
  }
  if (bytes > messageLimits.headerBytes)
    errors.push({ pointer: pointerTo(), detail: `must be at most ${messageLimits.headerBytes} bytes in total` })
  return { headers, errors }
}

function headerError(name: string, value: unknown, repeated: boolean): string | null {
  if (!namePattern.test(name)) return 'is not a header name'
  if (repeated) return 'is given twice'
  if (typeof value !== 'string') return 'must be a string'
  return forbiddenInValue.test(value) || !isWellFormed(value) ? 'must be text without control characters' : null
}

/** The `Postern-Header-NAME` headers of a request. */
export function headersOf(exchange: Exchange): Checked {
  const found = headersAfter(exchange, prefix)
  if (found.length === 0) return { headers: null, errors: [] }
  return checkHeaders(
    found.map(([name, value]) => [name, headerText(value)] as const),
    (name) => `header/${prefix}${name ?? '*'}`,
  )
}

/** Of the `Postern-Header-NAME` headers of a request. */
export const messageHeaderNames = (exchange: Exchange): string[] =>
  headersAfter(exchange, prefix).map(([name]) => prefix + name)

/** The Idempotency-Key header, checked. */
export function idempotencyKey(exchange: Exchange): string | null {
  const given = header(exchange, 'idempotency-key')
  if (given === undefined) return null
  const checked = shortText.safeParse(headerText(given))
  if (!checked.success) throw invalid('header/idempotency-key', checked.error.issues[0]?.message ?? 'is not valid')
  return checked.data
}

/** The trace context of what is sent by this request, as message headers: its own span's, or the one it came with; null without a valid one. */
export const traceOf = (exchange: Exchange): Headers | null => exchange.span?.context ?? traceAsked(exchange)

/** The trace context that the request came with. */
export function traceAsked(exchange: Exchange): Headers | null {
  const traceparent = header(exchange, 'traceparent')
  if (traceparent === undefined || parseTraceparent(traceparent) === null) return null
  const tracestate = header(exchange, 'tracestate')
  if (!tracestate || tracestate.length > tracestateLength) return { traceparent }
  return { traceparent, tracestate: headerText(tracestate) }
}

/** The message's own headers win over the request's trace. */
export const withTrace = (headers: Headers | null, trace: Headers | null): Headers | null =>
  trace && headers ? { ...trace, ...headers } : (headers ?? trace)

/** HTTP hands header bytes over as Latin-1. They are UTF-8 when they can be. */
export function headerText(value: string): string {
  if (!/[\u0080-\u00ff]/.test(value)) return value
  const bytes = Buffer.from(value, 'latin1')
  return isUtf8(bytes) ? bytes.toString('utf8') : value
}

/** Text as HTTP wants it: its UTF-8 bytes, one character each. */
export const headerBytes = (value: string): string =>
  /[\u0080-\uffff]/.test(value) ? Buffer.from(value, 'utf8').toString('latin1') : value

/** For a raw answer. */
export const headersToSend = (headers: Headers): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [`Postern-Header-${name}`, headerBytes(value)]))
