/** What never becomes a request for the app is refused in the same form, with a request id and a line in the log. */
import type { ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { BrokerError, type Code } from '../model/index.ts'
import { requestIds } from './exchange.ts'
import { problem, problemAnswer } from './problem.ts'

export const maxHeaderBytes = 48 * 1024

export type ClientError = Error & { code?: string }

export type Refusals = {
  /** A request that Hono's adapter could make no Request of: a broken Host or request target. */
  unroutable(error: unknown): Response
  /** What is no HTTP, too slow, or has too large a head: answered straight to the socket, which is then closed. */
  socket(error: ClientError, socket: Duplex, outgoing: ServerResponse | undefined): void
  /** A connection too many: answered before it has asked, and closed. */
  crowded(socket: Duplex): void
}

export function refusals(log: (line: Record<string, unknown>) => void): Refusals {
  const newRequestId = requestIds()

  function unroutable(error: unknown): Response {
    const requestId = newRequestId()
    const isOurs = !(error instanceof Error && error.name === 'RequestError')
    const thrown = isOurs ? error : new BrokerError('malformed_request', 'The request target or the Host is malformed.')
    const { status, body, headers } = problem(thrown, requestId)
    log({ event: 'request', status, request_id: requestId, error: isOurs ? String(error) : undefined })
    return new Response(String(body), { status, headers: { ...headers, 'Postern-Request-Id': requestId } })
  }

  function socket(error: ClientError, connection: Duplex, outgoing: ServerResponse | undefined): void {
    const refusal = refusalFor(error)
    const requestId = newRequestId()
    const underWay = outgoing !== undefined && !outgoing.writableFinished
    const answerable = connection.writable && error.code !== 'ECONNRESET' && !(underWay && outgoing.headersSent)
    if (answerable) {
      connection.end(wholeAnswer(refusal, requestId))
      // What else it sends is read and dropped, so that no reset overtakes the answer; the silence timeout ends it.
      connection.resume()
    } else connection.destroy()
    // The reset of an idle connection is nobody's request.
    if (!answerable && !underWay) return
    const status = answerable ? refusal.status : 0
    log({ event: 'request', status, request_id: requestId, error: error.code ?? error.message })
  }

  function crowded(connection: Duplex): void {
    const requestId = newRequestId()
    connection.end(wholeAnswer(tooCrowded, requestId, { 'Retry-After': '1' }))
    log({ event: 'request', status: tooCrowded.status, request_id: requestId, error: 'too many connections' })
  }

  return { unroutable, socket, crowded }
}

type Refusal = { status: number; reason: string; code: Code; detail: string }

const tooCrowded: Refusal = {
  status: 503,
  reason: 'Service Unavailable',
  code: 'unavailable',
  detail: 'This gateway has as many connections as it takes.',
}

function wholeAnswer(
  { status, reason, code, detail }: Refusal,
  requestId: string,
  more: Record<string, string> = {},
): string {
  const answer = problemAnswer({ status, title: reason, code, detail, errors: [] }, requestId, more)
  const body = String(answer.body)
  const head = {
    ...answer.headers,
    'Content-Length': Buffer.byteLength(body),
    'Postern-Request-Id': requestId,
    Connection: 'close',
  }
  const lines = Object.entries(head).map(([name, value]) => `${name}: ${value}\r\n`)
  return `HTTP/1.1 ${status} ${reason}\r\n${lines.join('')}\r\n${body}`
}

function refusalFor({ code }: ClientError): Refusal {
  if (code === 'HPE_HEADER_OVERFLOW') {
    const detail = `The request's headers are larger than ${maxHeaderBytes} bytes.`
    return { status: 431, reason: 'Request Header Fields Too Large', code: 'headers_too_large', detail }
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return { status: 408, reason: 'Request Timeout', code: 'malformed_request', detail: 'The request came too slowly.' }
  }
  return { status: 400, reason: 'Bad Request', code: 'malformed_request', detail: 'This is not an HTTP/1.1 request.' }
}
