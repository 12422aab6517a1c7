/**
 * One HTTP attempt. It ends by its deadline whatever the other side does, reads no more of an answer than is kept, follows nothing,
 * and dials only addresses that it may: the check is on the address that is dialled, so no notation and no second DNS answer helps.
 */
import dns from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import { Agent, buildConnector, type Dispatcher } from 'undici'
import { after, monotonicMs } from '../base/index.ts'
import { type FailureCode, type Outcome, subscriptionLimits } from '../model/index.ts'

/** `timeoutMs`: from now to the head of the answer. Header names in lower case, values Latin-1. */
export type SendRequest = {
  url: string
  headers: Record<string, string>
  body: Buffer
  timeoutMs: number
  signal: AbortSignal
}

export type SendResult = {
  outcome: Outcome
  durationMs: number
  responseHeaders: Record<string, string>
  /** The first 16 KiB. */
  responseBody: Buffer
}

export type Sender = {
  /** Never throws: what went wrong is the outcome. */
  send(request: SendRequest): Promise<SendResult>
  close(): Promise<void>
}

export type SenderOptions = {
  /** Whether this address may be dialled. */
  allow(address: string): boolean
  /** Instead of the system's. */
  lookup?: LookupFunction
}

/** Below what servers commonly keep (Node's 5 s): a connection that is just being closed loses the request. */
const keepAliveMs = 4_000
const headBytes = 32 * 1024
/** For the body of an answer; the status already counts. */
const bodyMs = 2_000

export function createSender({ allow, lookup = dns.lookup as LookupFunction }: SenderOptions): Sender {
  const agent = new Agent({
    // Unlimited for an origin: how many are under way is each subscription's own matter.
    pipelining: 1,
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: keepAliveMs,
    keepAliveMaxTimeout: keepAliveMs,
    maxHeaderSize: headBytes,
    connect: guardedConnector(allow, lookup),
  })
  return {
    send: (request) => new Promise((resolve) => attempt(agent, request, resolve)),
    close: () => agent.destroy(),
  }
}

/** Names are resolved to allowed addresses only; addresses are checked as they are. */
function guardedConnector(allow: (address: string) => boolean, lookup: LookupFunction): buildConnector.connector {
  const guarded: LookupFunction = (host, options, callback) =>
    lookup(host, { ...options, all: true }, (error, found) => {
      if (error) return callback(error, '', 0)
      const all = Array.isArray(found) ? found : [{ address: found, family: isIP(found) }]
      const good = all.filter((each) => allow(each.address))
      const [first] = good
      if (!first) return callback(refusedAddress(), '', 0)
      if (options.all) return callback(null, good)
      callback(null, first.address, first.family)
    })
  const dial = buildConnector({ timeout: subscriptionLimits.connectTimeoutMs, lookup: guarded })
  return (options, callback) => {
    const host = options.hostname.replace(/^\[|\]$/g, '')
    if (isIP(host) !== 0 && !allow(host)) callback(refusedAddress(), null)
    else dial(options, callback)
  }
}

const forbidden = 'ERR_FORBIDDEN_ADDRESS'
const refusedAddress = (): NodeJS.ErrnoException =>
  Object.assign(new Error('not a public address'), { code: forbidden })

function attempt(agent: Agent, request: SendRequest, resolve: (result: SendResult) => void): void {
  const startMs = monotonicMs()
  const chunks: Buffer[] = []
  let kept = 0
  let outcome: Outcome | undefined
  let responseHeaders: Record<string, string> = {}
  let controller: Dispatcher.DispatchController | undefined
  let done = false
  let timer = after(request.timeoutMs, () => end(failure('timeout')))
  const broken = (): void => end(failure('aborted'))
  request.signal.addEventListener('abort', broken, { once: true })

  /** The first outcome counts. Whatever is still open is cut: nothing more is wanted from there. */
  function end(found: Outcome, whole = false): void {
    if (done) return
    done = true
    timer.cancel()
    request.signal.removeEventListener('abort', broken)
    if (!whole) controller?.abort(new Error('enough'))
    const durationMs = monotonicMs() - startMs
    resolve({ outcome: outcome ?? found, durationMs, responseHeaders, responseBody: Buffer.concat(chunks) })
  }

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(started) {
      controller = started
      if (done) started.abort(new Error('too late'))
    },
    onResponseStart(_started, status, headers) {
      if (done || status < 200) return
      responseHeaders = headersFrom(headers)
      outcome = { kind: 'answer', status, retryAfter: responseHeaders['retry-after'] ?? null }
      timer.cancel()
      const leftMs = request.timeoutMs - (monotonicMs() - startMs)
      timer = after(Math.max(1, Math.min(bodyMs, leftMs)), () => end(failure('timeout')))
    },
    onResponseData(_started, chunk) {
      if (done) return
      const wanted = chunk.subarray(0, subscriptionLimits.responseBytes - kept)
      // A copy: the chunk is a part of a larger buffer.
      if (wanted.length > 0) chunks.push(Buffer.from(wanted))
      kept += wanted.length
      if (wanted.length < chunk.length) end(failure('reset'))
    },
    onResponseEnd: () => end(failure('malformed'), true),
    onResponseError: (_started, error) => end(failureFrom(error), true),
  }
  if (request.signal.aborted) {
    broken()
    return
  }
  try {
    const { origin, pathname, search } = new URL(request.url)
    const { headers, body } = request
    agent.dispatch({ origin, path: pathname + search, method: 'POST', headers, body }, handler)
  } catch (error) {
    end(failureFrom(error))
  }
}

function headersFrom(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const found: Record<string, string> = Object.create(null)
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined) found[name.toLowerCase()] = textOf(Array.isArray(value) ? value.join(', ') : value)
  return found
}

/** NUL is what Postgres takes in no text. */
const textOf = (value: string): string => value.replaceAll('\0', '')

const failure = (code: FailureCode, detail = ''): Outcome => ({ kind: 'failure', code, detail })

const codes: Record<string, FailureCode> = {
  [forbidden]: 'forbidden_address',
  UND_ERR_CONNECT_TIMEOUT: 'connect_timeout',
  ETIMEDOUT: 'connect_timeout',
  UND_ERR_HEADERS_TIMEOUT: 'timeout',
  UND_ERR_BODY_TIMEOUT: 'timeout',
  UND_ERR_HEADERS_OVERFLOW: 'malformed',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'malformed',
  ECONNREFUSED: 'refused',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
  UND_ERR_SOCKET: 'reset',
  ENOTFOUND: 'dns',
  EPROTO: 'tls',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'tls',
  HOSTNAME_MISMATCH: 'tls',
}

/** By the code alone; of several addresses that were tried, by the first's. */
function failureFrom(error: unknown): Outcome {
  const first = error instanceof AggregateError && error.errors.length > 0 ? error.errors[0] : error
  const code = first instanceof Error && 'code' in first && typeof first.code === 'string' ? first.code : ''
  const known = codes[code]
  if (known) return failure(known, known === 'forbidden_address' ? '' : code)
  if (code.startsWith('HPE_')) return failure('malformed', code)
  if (code.startsWith('EAI_')) return failure('dns', code)
  if (/^(?:ERR_TLS|ERR_SSL|CERT_|SELF_SIGNED|UNABLE_TO_|ERR_OSSL)/.test(code)) return failure('tls', code)
  return failure('network', code)
}
