/**
 * One HTTP attempt. It ends by its deadline whatever the other side does, reads no more of an answer than is kept, follows nothing,
 * and dials only addresses that it may: the check is on the address that is dialled, so no notation and no second DNS answer helps.
 */
import dns from 'node:dns'
import { isIP, type LookupFunction, type Socket } from 'node:net'
import { Agent, buildConnector, type Dispatcher } from 'undici'
import { after, monotonicMs } from '../base/index.ts'
import { type FailureCode, type Outcome, subscriptionLimits } from '../model/index.ts'
import { forbiddenAddress, forbiddenAddressCode, guardedLookup } from './address.ts'

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
  /** Breaks off what is under way. */
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
/** Off what a server says that it keeps (`Keep-Alive: timeout=5`), for the way there. */
const keepAliveMarginMs = 1_000
const headBytes = 32 * 1024
/** For the body of an answer; the status already counts. */
const bodyMs = 2_000
/** For each address of a name but the last. Node's 250 ms gives up on endpoints that are merely far away. */
const oneAddressMs = 1_000

/** An origin's pool goes with its last connection (undici 7.30), so that endpoints that come and go leave nothing behind. */
export function createSender({ allow, lookup = dns.lookup as LookupFunction }: SenderOptions): Sender {
  const agent = new Agent({
    // Unlimited for an origin: how many are under way is each subscription's own matter.
    connections: null,
    pipelining: 1,
    // The attempt's own deadline is exact; undici's timers are not.
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: keepAliveMs,
    keepAliveMaxTimeout: keepAliveMs,
    keepAliveTimeoutThreshold: keepAliveMarginMs,
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
  const dial = buildConnector({
    timeout: subscriptionLimits.connectTimeoutMs,
    lookup: guardedLookup(allow, lookup),
    autoSelectFamilyAttemptTimeout: oneAddressMs,
  })
  return (options, callback) => {
    const host = options.hostname.replace(/^\[|\]$/g, '')
    if (isIP(host) !== 0 && !allow(host)) return queueMicrotask(() => callback(forbiddenAddress(), null))
    dial(options, (...result) => {
      if (result[1]) skipContinue(result[1])
      callback(...result)
    })
  }
}

const unaskedContinue = Buffer.from('HTTP/1.1 100 ')

/**
 * A client must skip a 100 that it did not ask for (RFC 9110, 15.2). undici skips every other 1xx and breaks the connection on that
 * one, so it is shown as 102. The head has to begin a read, which it does: nothing else is on its way before it.
 */
function skipContinue(socket: Socket): void {
  const read = socket.read.bind(socket)
  socket.read = (size?: number) => {
    const chunk: unknown = read(size)
    if (Buffer.isBuffer(chunk) && chunk.subarray(0, unaskedContinue.length).equals(unaskedContinue))
      chunk.write('102', unaskedContinue.length - 4)
    return chunk
  }
}

function attempt(agent: Agent, request: SendRequest, resolve: (result: SendResult) => void): void {
  const startMs = monotonicMs()
  const answer = newAnswer()
  let controller: Dispatcher.DispatchController | undefined
  let done = false
  let timer = after(request.timeoutMs, () => end(failure(controller ? 'timeout' : 'connect_timeout')))
  const broken = (): void => end(failure('aborted'))
  request.signal.addEventListener('abort', broken, { once: true })

  /** The first to call it decides. Whatever is still open is cut: nothing more is wanted from there. */
  function end(outcome: Outcome): void {
    if (done) return
    done = true
    timer.cancel()
    request.signal.removeEventListener('abort', broken)
    controller?.abort(new Error('enough'))
    resolve({ ...answer.result(outcome), durationMs: monotonicMs() - startMs })
  }

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(started) {
      controller = started
      if (done) started.abort(new Error('too late'))
    },
    onResponseStart(_controller, status, headers) {
      if (done || status < 200) return
      answer.begin(status, headers)
      timer.cancel()
      const leftMs = request.timeoutMs - (monotonicMs() - startMs)
      timer = after(Math.max(1, Math.min(bodyMs, leftMs)), () => end(failure('timeout')))
    },
    onResponseData(_controller, chunk) {
      if (!done && !answer.keep(chunk)) end(failure('reset'))
    },
    // Nothing is left to be cut.
    onResponseEnd() {
      controller = undefined
      end(failure('malformed'))
    },
    onResponseError(_controller, error) {
      controller = undefined
      end(failureFrom(error))
    },
  }
  if (request.signal.aborted) broken()
  else dispatch(agent, request, handler, end)
}

function dispatch(
  agent: Agent,
  { url, headers, body }: SendRequest,
  handler: Dispatcher.DispatchHandler,
  end: (outcome: Outcome) => void,
): void {
  try {
    const { origin, pathname, search } = new URL(url)
    agent.dispatch({ origin, path: pathname + search, method: 'POST', headers, body }, handler)
  } catch (error) {
    end(failureFrom(error))
  }
}

type Answer = {
  begin(status: number, headers: Record<string, string | string[] | undefined>): void
  /** false: there is more than is kept. */
  keep(chunk: Buffer): boolean
  /** `otherwise`: when no head came. */
  result(otherwise: Outcome): Omit<SendResult, 'durationMs'>
}

function newAnswer(): Answer {
  let outcome: Outcome | undefined
  let responseHeaders: Record<string, string> = {}
  const chunks: Buffer[] = []
  let leftBytes: number = subscriptionLimits.responseBytes
  return {
    begin(status, headers) {
      responseHeaders = headersFrom(headers)
      outcome = { kind: 'answer', status, retryAfter: responseHeaders['retry-after'] ?? null }
    },
    keep(chunk) {
      const wanted = chunk.subarray(0, leftBytes)
      // A copy: the chunk is a part of a larger buffer.
      if (wanted.length > 0) chunks.push(Buffer.from(wanted))
      leftBytes -= wanted.length
      return wanted.length === chunk.length
    },
    result: (otherwise) => ({ outcome: outcome ?? otherwise, responseHeaders, responseBody: Buffer.concat(chunks) }),
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
  [forbiddenAddressCode]: 'forbidden_address',
  UND_ERR_CONNECT_TIMEOUT: 'connect_timeout',
  ETIMEDOUT: 'connect_timeout',
  UND_ERR_HEADERS_TIMEOUT: 'timeout',
  UND_ERR_BODY_TIMEOUT: 'timeout',
  UND_ERR_HEADERS_OVERFLOW: 'malformed',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'malformed',
  UND_ERR_CLOSED: 'aborted',
  UND_ERR_DESTROYED: 'aborted',
  UND_ERR_ABORTED: 'aborted',
  ECONNREFUSED: 'refused',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
  UND_ERR_SOCKET: 'reset',
  UND_ERR_INFO: 'reset',
  ENOTFOUND: 'dns',
  EPROTO: 'tls',
  HOSTNAME_MISMATCH: 'tls',
  INVALID_CA: 'tls',
  INVALID_PURPOSE: 'tls',
  PATH_LENGTH_EXCEEDED: 'tls',
}
const tlsCode = /^(?:ERR_TLS|ERR_SSL|ERR_OSSL|CERT_|CRL_|ERROR_IN_C|DEPTH_ZERO_|SELF_SIGNED|UNABLE_TO_)/

/** By the code alone; of several addresses that were tried, by the first's. */
function failureFrom(error: unknown): Outcome {
  const first = error instanceof AggregateError && error.errors.length > 0 ? error.errors[0] : error
  const code = first instanceof Error && 'code' in first && typeof first.code === 'string' ? first.code : ''
  const known = codes[code]
  if (known) return failure(known, known === 'forbidden_address' ? '' : code)
  if (code.startsWith('HPE_')) return failure('malformed', code)
  if (code.startsWith('EAI_')) return failure('dns', code)
  return failure(tlsCode.test(code) ? 'tls' : 'network', code)
}
