/**
 * One request, read from Node's own message where there is one, and from the fetch Request otherwise (tests, embedders).
 * The path is the one that was sent: nothing decodes or shortens it on the way to the router, so that `a%2Fb` and `..`
 * are judged as names instead of leading somewhere else.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Context } from 'hono'
import { after, type Budget, monotonicMs, randomToken } from '../base/index.ts'
import { BrokerError, type Span } from '../model/index.ts'

export type Bindings = { incoming: IncomingMessage; outgoing: ServerResponse }
export type HttpEnv = { Bindings: Bindings }

export type Exchange = {
  context: Context<HttpEnv>
  incoming: IncomingMessage | undefined
  outgoing: ServerResponse | undefined
  method: string
  /** As sent: percent-encoding and dot segments untouched. */
  path: string
  /** What follows the `?`. */
  search: string
  requestId: string
  startedMs: number
  /** Bytes of the body that were read. */
  bytesIn: number
  /** Bytes of the budget for bodies that are taken, until `releaseBody`. */
  reservedBytes: number
  bodies: Budget
  /** Bytes of answers that their clients have not taken yet. */
  answers: Budget
  /** Of every answer: what is left of the limits on requests. */
  quota: Record<string, string>
  /** Of the trace that the request is part of; absent where traces are off. */
  span: Span | undefined
  /** For the log: the queue or the topic, once its name has been checked. */
  queue: string | undefined
  topic: string | undefined
}

/** How long the rest of a refused body is read and dropped, so that the answer is not lost in a reset. */
const lingerMs = 2000
const nothing = Buffer.alloc(0)
/** A caller's own id is taken when it is a plain word, so that it can be logged and sent back. */
const requestIdPattern = /^[A-Za-z0-9._-]{1,64}$/

/** What all requests of one gateway share. */
export type Shared = {
  newRequestId(): string
  /** Bytes of bodies in flight, and of answers. */
  bodies: Budget
  answers: Budget
}

export function openExchange(context: Context<HttpEnv>, { newRequestId, bodies, answers }: Shared): Exchange {
  const bindings = bindingsOf(context.env)
  const target = targetOf(context.req.raw, context.env)
  const question = target.indexOf('?')
  const exchange: Exchange = {
    context,
    incoming: bindings?.incoming,
    outgoing: bindings?.outgoing,
    method: context.req.raw.method,
    path: question === -1 ? target : target.slice(0, question),
    search: question === -1 ? '' : target.slice(question + 1),
    requestId: '',
    startedMs: monotonicMs(),
    bytesIn: 0,
    reservedBytes: 0,
    bodies,
    answers,
    quota: {},
    span: undefined,
    queue: undefined,
    topic: undefined,
  }
  const given = header(exchange, 'postern-request-id')
  exchange.requestId = given !== undefined && requestIdPattern.test(given) ? given : newRequestId()
  return exchange
}

/** Names requests one after the other, under a prefix that no other process has: far cheaper than a random one each. */
export function requestIds(): () => string {
  const prefix = `req_${randomToken().toString(36)}_`
  let count = 0
  return () => prefix + ++count
}

/** For Hono's router: the path as it was sent. */
export function rawPath(request: Request, options?: { env?: unknown }): string {
  const target = targetOf(request, options?.env)
  const question = target.indexOf('?')
  return question === -1 ? target : target.slice(0, question)
}

/** One header by its lower-case name. Node joins repeated ones with a comma, and keeps the first where that has no sense. */
export function header(exchange: Exchange, name: string): string | undefined {
  if (!exchange.incoming) return exchange.context.req.raw.headers.get(name) ?? undefined
  const value = exchange.incoming.headers[name]
  return Array.isArray(value) ? value.join(', ') : value
}

/** All headers whose lower-case name begins with `prefix`, without it. */
export function headersAfter(exchange: Exchange, prefix: string): [name: string, value: string][] {
  const found: [string, string][] = []
  if (exchange.incoming) {
    for (const name in exchange.incoming.headers) {
      if (name.startsWith(prefix)) found.push([name.slice(prefix.length), header(exchange, name) ?? ''])
    }
  } else {
    exchange.context.req.raw.headers.forEach((value, name) => {
      if (name.startsWith(prefix)) found.push([name.slice(prefix.length), value])
    })
  }
  return found
}

/** Aborts when the client hangs up. */
export const hangUp = (exchange: Exchange): AbortSignal => exchange.context.req.raw.signal

/** Whether the client has hung up. One that has closed its side has: Node answers nobody who no longer listens. */
export const hasGone = ({ context, incoming, outgoing }: Exchange): boolean =>
  outgoing ? outgoing.destroyed || incoming?.socket.readableEnded === true : context.req.raw.signal.aborted

/** So small an answer that the network takes it at once. */
const smallAnswer = 16 * 1024

/** Before much is read for an answer. Throws unavailable when clients leave too much lying. */
export function checkAnswers({ answers }: Exchange): void {
  if (answers.full())
    throw new BrokerError('unavailable', 'The gateway has too many answers that are not read.', { retryAfterS: 1 })
}

/**
 * When it is there, before it is made an answer: many may have asked at once. Throws as checkAnswers, unless it is small; counts until the
 * answer was handed to the network, or the client has gone.
 */
export function countAnswer(exchange: Exchange, bytes: number): void {
  const { outgoing, answers } = exchange
  if (bytes <= smallAnswer) return
  checkAnswers(exchange)
  if (!outgoing || outgoing.destroyed) return
  answers.add(bytes)
  outgoing.once('close', () => answers.give(bytes))
}

/** Drops a body that nobody wants; unread, it would keep Node from noticing that the client hangs up. */
export const ignoreBody = (exchange: Exchange): unknown => exchange.incoming?.resume()

/** Whether the request announces a body at all. */
export function hasBody(exchange: Exchange): boolean {
  if (!exchange.incoming) return exchange.context.req.raw.body !== null
  const { headers } = exchange.incoming
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/** Whoever asked for the body needs it no longer. */
export function releaseBody(exchange: Exchange): void {
  exchange.bodies.give(exchange.reservedBytes)
  exchange.reservedBytes = 0
}

/**
 * The whole body. Throws body_too_large before reading more than `limit` bytes, and at once when that is announced; unavailable
 * when there are too many bodies in flight, at once when its length is announced. Its bytes count until `releaseBody`.
 */
export async function readBody(exchange: Exchange, limit: number): Promise<Buffer> {
  const announcedBytes = Number(header(exchange, 'content-length') ?? 0)
  if (announcedBytes > limit) throw tooLarge(limit)
  reserve(exchange, announcedBytes)
  const { incoming, outgoing } = exchange
  if (!incoming || !outgoing) return readStream(exchange, limit)
  // The server leaves `100 Continue` to whoever wants the body, so that a refused body is never sent.
  if (expectsContinue(incoming)) outgoing.writeContinue()
  return readIncoming(exchange, incoming, limit)
}

const expectsContinue = (incoming: IncomingMessage): boolean => incoming.headers.expect !== undefined

/** Whatever of the first `bytes` is not reserved yet. */
function reserve(exchange: Exchange, bytes: number): void {
  const more = bytes - exchange.reservedBytes
  if (more <= 0) return
  if (!exchange.bodies.take(more))
    throw new BrokerError('unavailable', 'The gateway has too many request bodies in flight.', { retryAfterS: 1 })
  exchange.reservedBytes = bytes
}

const tooLarge = (limit: number): BrokerError =>
  new BrokerError('body_too_large', `The request body is larger than ${limit} bytes.`)

function readIncoming(exchange: Exchange, incoming: IncomingMessage, limit: number): Buffer | Promise<Buffer> {
  // Mostly the body came with the head, in one packet. Taking it at once saves the events: a tenth of a small send.
  const length = Number(incoming.headers['content-length'] ?? Number.NaN)
  if (incoming.readableLength === length && !incoming.readableDidRead) {
    const whole: Buffer = incoming.read() ?? nothing
    incoming.resume()
    exchange.bytesIn = whole.length
    return whole
  }
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const settle = (outcome: () => void) => {
      incoming.off('data', onData).off('end', onEnd).off('close', onClose)
      outcome()
    }
    const onData = (chunk: Buffer) => {
      exchange.bytesIn += chunk.length
      try {
        if (exchange.bytesIn > limit) throw tooLarge(limit)
        reserve(exchange, exchange.bytesIn)
        chunks.push(chunk)
      } catch (error) {
        settle(() => reject(error))
      }
    }
    const onEnd = () => settle(() => resolve(join(chunks)))
    const onClose = () =>
      settle(() => reject(new BrokerError('malformed_request', 'The request body ended before it was complete.')))
    incoming.on('data', onData).on('end', onEnd).on('close', onClose)
    if (incoming.destroyed && !incoming.readableEnded) onClose()
  })
}

async function readStream(exchange: Exchange, limit: number): Promise<Buffer> {
  const reader = exchange.context.req.raw.body?.getReader()
  const chunks: Buffer[] = []
  while (reader) {
    const { done, value } = await reader.read()
    if (done) break
    exchange.bytesIn += value.byteLength
    try {
      if (exchange.bytesIn > limit) throw tooLarge(limit)
      reserve(exchange, exchange.bytesIn)
    } catch (error) {
      void reader.cancel()
      throw error
    }
    chunks.push(Buffer.from(value))
  }
  return join(chunks)
}

const join = (chunks: readonly Buffer[]): Buffer => (chunks.length === 1 && chunks[0]) || Buffer.concat(chunks)

/**
 * How to send a refusal while the request's body is still on its way; null: as any other answer. After a 413 the
 * connection cannot be used again, and closing it at once would reset it under a client that is still sending, which then
 * never sees the answer. So the answer is complete by its Content-Length, but ends only when the body has, or after two
 * seconds. Other bodies are small enough that the server reads and drops them.
 */
export function unreadBody(
  exchange: Exchange,
  status: number,
  text: string,
): { body: ReadableStream | string; headers: Record<string, string> } | null {
  const { incoming } = exchange
  if (!incoming || incoming.complete) return null
  // A client that waits for `100 Continue` has sent nothing yet, and may never send it.
  if (expectsContinue(incoming) && exchange.bytesIn === 0) return { body: text, headers: { Connection: 'close' } }
  if (status !== 413) return null
  return {
    body: untilRead(incoming, text),
    headers: { Connection: 'close', 'Content-Length': String(Buffer.byteLength(text)) },
  }
}

function untilRead(incoming: IncomingMessage, text: string): ReadableStream {
  let finish: (() => void) | undefined
  return new ReadableStream({
    start(controller) {
      controller.enqueue(Buffer.from(text))
      finish = () => {
        finish = undefined
        deadline.cancel()
        incoming.off('end', end).off('close', end)
        controller.close()
      }
      const end = () => finish?.()
      const deadline = after(lingerMs, end)
      incoming.on('end', end).on('close', end).resume()
    },
    // The client has gone: nothing is left to close.
    cancel() {
      finish = undefined
    },
  })
}

/** Path and query as sent. A proxy's absolute form is cut to the same. */
function targetOf(request: Request, env: unknown): string {
  const target = bindingsOf(env)?.incoming.url ?? request.url
  if (target.charCodeAt(0) === 47) return target
  const slash = target.indexOf('/', target.indexOf('://') + 3)
  return slash === -1 ? '/' : target.slice(slash)
}

/** Absent when the app is called as a function, without a server. */
function bindingsOf(env: unknown): Bindings | undefined {
  return typeof env === 'object' && env !== null && 'incoming' in env ? (env as Bindings) : undefined
}
