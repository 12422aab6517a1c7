/**
 * The listening socket. Slow, broken and oversized requests are answered in the same form as all others, and stopping
 * loses no answer: it refuses new connections, lets what is under way finish, and closes the rest.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { getRequestListener } from '@hono/node-server'
import { BrokerError, type Code } from '../model/index.ts'
import { requestIdFrom } from './exchange.ts'
import { problem, problemAnswer } from './problem.ts'

export type ListenOptions = {
  host: string
  /** 0: any free one. */
  port: number
  log(line: Record<string, unknown>): void
  timeouts?: Partial<Timeouts>
}

export type Timeouts = {
  /** For the request's head. */
  headersMs: number
  /** For the whole request, body included; not for the answer. */
  requestMs: number
  /** Between requests; longer than a load balancer's usual 60 s, so that it closes first. */
  keepAliveMs: number
  /** Without a byte in either direction: a client that does not read its answer. Longer than any long poll. */
  silenceMs: number
  /** How often slow requests are looked for. */
  checkMs: number
}

export type Listening = {
  url: string
  port: number
  /** Refuses new connections and resolves when the requests under way are answered. */
  stop(): Promise<void>
  /** Breaks off whatever is still open. */
  close(): Promise<void>
}

type Fetch = Parameters<typeof getRequestListener>[0]

const defaults: Timeouts = {
  headersMs: 15_000,
  requestMs: 60_000,
  keepAliveMs: 75_000,
  silenceMs: 180_000,
  checkMs: 2000,
}
const maxHeaderBytes = 48 * 1024

export async function listen(http: { fetch: unknown }, options: ListenOptions): Promise<Listening> {
  const underWay = new Map<Duplex, ServerResponse>()
  let stopping = false
  const listener = getRequestListener(http.fetch as Fetch, {
    hostname: options.host,
    errorHandler: (error) => unroutable(error, options.log),
  })

  function onRequest(incoming: IncomingMessage, outgoing: ServerResponse): void {
    const { socket } = incoming
    underWay.set(socket, outgoing)
    if (stopping) outgoing.setHeader('Connection', 'close')
    outgoing.once('close', () => {
      if (underWay.get(socket) === outgoing) underWay.delete(socket)
      // Its head may have been sent before stopping began, and promised to keep the connection.
      if (stopping) setImmediate(() => server.closeIdleConnections())
    })
    void listener(incoming, outgoing)
  }

  const server = httpServer({ ...defaults, ...options.timeouts })
  // Without these two Node would answer `Expect` itself: a body could not be refused before it is sent.
  server.on('request', onRequest).on('checkContinue', onRequest).on('checkExpectation', onRequest)
  server.on('clientError', (error, socket) => refuseSocket(error, socket, underWay.get(socket), options.log))
  const port = await bind(server, options)
  const closed = new Promise<void>((resolve) => server.once('close', resolve))

  /** Node closes idle connections; the others are told to close with their answer. */
  function stop(): Promise<void> {
    stopping = true
    for (const outgoing of underWay.values()) if (!outgoing.headersSent) outgoing.setHeader('Connection', 'close')
    if (server.listening) server.close()
    return closed
  }

  return {
    url: `http://${options.host.includes(':') ? `[${options.host}]` : options.host}:${port}`,
    port,
    stop,
    close: () => {
      void stop()
      server.closeAllConnections()
      return closed
    },
  }
}

function httpServer(times: Timeouts): Server {
  const server = createServer({
    headersTimeout: times.headersMs,
    requestTimeout: times.requestMs,
    keepAliveTimeout: times.keepAliveMs,
    connectionsCheckingInterval: times.checkMs,
    maxHeaderSize: maxHeaderBytes,
    // A missing Host is answered by the app, in the form of all errors.
    requireHostHeader: false,
    keepAlive: true,
    keepAliveInitialDelay: 30_000,
  })
  server.timeout = times.silenceMs
  return server
}

function bind(server: Server, { host, port }: ListenOptions): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve((server.address() as AddressInfo).port)
    })
  })
}

/** A request that Hono's adapter could make no Request of: a broken Host or request target. */
function unroutable(error: unknown, log: ListenOptions['log']): Response {
  const requestId = requestIdFrom(undefined)
  const isOurs = !(error instanceof Error && error.name === 'RequestError')
  const thrown = isOurs ? error : new BrokerError('malformed_request', 'The request target or the Host is malformed.')
  const { status, body, headers } = problem(thrown, requestId)
  log({ event: 'request', status, request_id: requestId, ...(isOurs ? { error: String(error) } : {}) })
  return new Response(String(body), { status, headers: { ...headers, 'Postern-Request-Id': requestId } })
}

type ClientError = Error & { code?: string }

/** What is no HTTP, too slow, or has too large a head: answered straight to the socket, which is then closed. */
function refuseSocket(
  error: ClientError,
  socket: Duplex,
  outgoing: ServerResponse | undefined,
  log: ListenOptions['log'],
): void {
  const { status, reason, code, detail } = refusalFor(error)
  const requestId = requestIdFrom(undefined)
  const answerable = socket.writable && error.code !== 'ECONNRESET' && !outgoing?.headersSent
  if (answerable) {
    const answer = problemAnswer({ status, title: reason, code, detail, errors: [] }, requestId, {})
    const body = String(answer.body)
    const head = {
      ...answer.headers,
      'Content-Length': Buffer.byteLength(body),
      'Postern-Request-Id': requestId,
      Connection: 'close',
    }
    const lines = Object.entries(head).map(([name, value]) => `${name}: ${value}\r\n`)
    socket.end(`HTTP/1.1 ${status} ${reason}\r\n${lines.join('')}\r\n${body}`)
    // The rest of what it sends is read and dropped until it closes, or the silence timeout does.
    ;(socket as Socket).resume?.()
  } else socket.destroy()
  // A reset of an idle connection is nobody's request.
  if (answerable || outgoing) {
    log({
      event: 'request',
      status: answerable ? status : 0,
      request_id: requestId,
      error: error.code ?? error.message,
    })
  }
}

function refusalFor({ code }: ClientError): { status: number; reason: string; code: Code; detail: string } {
  if (code === 'HPE_HEADER_OVERFLOW') {
    const detail = `The request's headers are larger than ${maxHeaderBytes} bytes.`
    return { status: 431, reason: 'Request Header Fields Too Large', code: 'headers_too_large', detail }
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return { status: 408, reason: 'Request Timeout', code: 'malformed_request', detail: 'The request came too slowly.' }
  }
  return { status: 400, reason: 'Bad Request', code: 'malformed_request', detail: 'This is not an HTTP/1.1 request.' }
}
