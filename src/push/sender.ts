/**
 * One HTTP attempt. It ends by its deadline whatever the other side does, reads no more of an answer than is kept, follows nothing,
 * and dials only addresses that it may: the check is on the address that is dialled, so no notation and no second DNS answer helps.
 */
import dns from 'node:dns'
import type { LookupFunction } from 'node:net'
import { LRUCache } from 'lru-cache'
import { type Client, errors } from 'undici'
import { after, monotonicMs, setOwn } from '../base/index.ts'
import { type FailureCode, type Outcome, subscriptionLimits } from '../model/index.ts'
import { forbiddenAddressCode } from './address.ts'
import { createConnections } from './connections.ts'

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

const targetsKept = 1_000
/** For the body of an answer; the status already counts. */
const bodyMs = 2_000

export function createSender({ allow, lookup = dns.lookup as LookupFunction }: SenderOptions): Sender {
  const connections = createConnections(allow, lookup)
  const brokenBy = createBreaks()
  const targets = new LRUCache<string, Target>({ max: targetsKept })

  function targetOf(url: string): Target {
    let target = targets.get(url)
    if (!target) {
      const { origin, pathname, search } = new URL(url)
      target = { origin, path: pathname + search }
      targets.set(url, target)
    }
    return target
  }

  async function attempt(request: SendRequest): Promise<Answered> {
    if (request.signal.aborted) return unanswered(failure('aborted'))
    const { origin, path } = targetOf(request.url)
    const client = connections.take(origin)
    const answered = await exchange(client, path, request, brokenBy(request.signal))
    if (answered.whole) connections.giveBack(origin, client)
    else connections.cut(client)
    return answered
  }

  return {
    async send(request) {
      const startMs = monotonicMs()
      const { outcome, responseHeaders, responseBody } = await attempt(request).catch((error: unknown) =>
        unanswered(failureFrom(error)),
      )
      const durationMs = Math.round((monotonicMs() - startMs) * 100) / 100
      return { outcome, durationMs, responseHeaders, responseBody }
    },
    close: () => connections.close(),
  }
}

type Target = { origin: string; path: string }

/** `whole`: the answer was read to its end, so the connection may serve again. */
type Answered = Omit<SendResult, 'durationMs'> & { whole: boolean }

/** What has come of an answer. A plain object, for there is one for each attempt. */
type Answer = { outcome: Outcome | undefined; headers: Record<string, string>; chunks: Buffer[]; leftBytes: number }

const newAnswer = (): Answer => ({
  outcome: undefined,
  headers: {},
  chunks: [],
  leftBytes: subscriptionLimits.responseBytes,
})

function begin(answer: Answer, status: number, headers: Record<string, string | string[] | undefined>): void {
  answer.headers = headersFrom(headers)
  answer.outcome = { kind: 'answer', status, retryAfter: answer.headers['retry-after'] ?? null }
}

/** false: there is more than is kept. */
function keep(answer: Answer, chunk: Buffer): boolean {
  const wanted = chunk.subarray(0, answer.leftBytes)
  // A copy: the chunk is a part of a larger buffer.
  if (wanted.length > 0) answer.chunks.push(Buffer.from(wanted))
  answer.leftBytes -= wanted.length
  return wanted.length === chunk.length
}

/** `otherwise`: when no head came. */
function answeredBy({ outcome, headers, chunks }: Answer, otherwise: Outcome, whole: boolean): Answered {
  const [first] = chunks
  const responseBody = first && chunks.length === 1 ? first : Buffer.concat(chunks)
  return { outcome: outcome ?? otherwise, responseHeaders: headers, responseBody, whole }
}

const unanswered = (outcome: Outcome): Answered => answeredBy(newAnswer(), outcome, false)

/** `broken`: whom to tell when the request's signal aborts. */
function exchange(client: Client, path: string, request: SendRequest, broken: Set<() => void>): Promise<Answered> {
  const { headers, body, timeoutMs } = request
  const startMs = monotonicMs()
  return new Promise((resolve) => {
    let isSent = false
    let isOver = false
    const answer = newAnswer()
    let timer = after(timeoutMs, () => end(failure(isSent ? 'timeout' : 'connect_timeout')))
    const abort = (): void => end(failure('aborted'))
    broken.add(abort)

    /** The first to call it decides; `otherwise` is what to say when no head had come. */
    function end(otherwise: Outcome, whole = false): void {
      if (isOver) return
      isOver = true
      timer.cancel()
      broken.delete(abort)
      resolve(answeredBy(answer, otherwise, whole))
    }

    function limitBody(): void {
      if (isOver) return
      timer.cancel()
      const leftMs = timeoutMs - (monotonicMs() - startMs)
      timer = after(Math.max(1, Math.min(bodyMs, leftMs)), () => end(failure('timeout')))
    }

    client.dispatch(
      { path, method: 'POST', headers, body },
      {
        onRequestStart() {
          isSent = true
        },
        onResponseStart(_controller, status, found) {
          if (status < 200) return
          begin(answer, status, found)
          // Most answers are over with the read that brought their head.
          queueMicrotask(limitBody)
        },
        onResponseData(_controller, chunk) {
          if (!keep(answer, chunk)) end(failure('reset'))
        },
        onResponseEnd: () => end(failure('malformed'), true),
        onResponseError: (_controller, error) => end(failureFrom(error)),
      },
    )
  })
}

/** For each signal whom to tell when it aborts: one listener for all attempts, because to find one among many listeners is a walk. */
function createBreaks(): (signal: AbortSignal) => Set<() => void> {
  const bySignal = new WeakMap<AbortSignal, Set<() => void>>()
  return (signal) => {
    const known = bySignal.get(signal)
    if (known) return known
    const broken = new Set<() => void>()
    bySignal.set(signal, broken)
    const tellAll = (): void => {
      for (const tell of broken) tell()
    }
    signal.addEventListener('abort', tellAll, { once: true })
    return broken
  }
}

function headersFrom(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const found: Record<string, string> = {}
  for (const name in headers) {
    const value = headers[name]
    if (value !== undefined) setOwn(found, name.toLowerCase(), textOf(Array.isArray(value) ? value.join(', ') : value))
  }
  return found
}

/** NUL is what Postgres takes in no text. */
const textOf = (value: string): string => (value.includes('\0') ? value.replaceAll('\0', '') : value)

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
  if (error instanceof errors.HTTPParserError) return failure('malformed', code)
  if (code.startsWith('EAI_')) return failure('dns', code)
  return failure(tlsCode.test(code) ? 'tls' : 'network', code)
}
