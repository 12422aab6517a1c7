/**
 * The listening socket. Slow, broken and oversized requests are answered in the same form as all others, and stopping
 * loses no answer: it refuses new connections, lets what is under way finish, and closes the rest.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { getRequestListener } from '@hono/node-server'
import { after } from '../base/index.ts'
import { hasAsked } from './arrival.ts'
import { maxHeaderBytes, refusals } from './refusals.ts'

export type ListenOptions = {
  host: string
  /** 0: any free one. */
  port: number
  /** More are answered with 503 and closed. Any number unless given. */
  maxConnections?: number
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

export async function listen(http: { fetch: unknown }, options: ListenOptions): Promise<Listening> {
  const refuse = refusals(options.log)
  let stopping = false
  const listener = getRequestListener(http.fetch as Fetch, {
    hostname: options.host,
    errorHandler: refuse.unroutable,
  })

  function onRequest(incoming: IncomingMessage, outgoing: ServerResponse): void {
    // It has had its answer.
    if (turnedAway.has(incoming.socket)) return
    answers.set(incoming.socket, outgoing)
    hasAsked(incoming.socket)
    if (stopping) closeAfter(outgoing)
    void listener(incoming, outgoing)
  }

  const server = httpServer({ ...defaults, ...options.timeouts })
  const answers = answersByConnection(server)
  const turnedAway = turningAway(server, options.maxConnections ?? Number.POSITIVE_INFINITY, refuse.crowded)
  // Without the last two Node would answer `Expect` itself: a body could not be refused before it is sent.
  server.on('request', onRequest).on('checkContinue', onRequest).on('checkExpectation', onRequest)
  server.on('clientError', (error, socket) => refuse.socket(error, socket, answers.get(socket)))
  const port = await bind(server, options)
  const closed = new Promise<void>((resolve) => server.once('close', resolve))

  function closeAfter(outgoing: ServerResponse): void {
    if (!outgoing.headersSent) outgoing.setHeader('Connection', 'close')
    // One whose head had promised to keep the connection leaves an idle one behind.
    outgoing.once('close', () => setImmediate(() => server.closeIdleConnections()))
  }

  /** Node closes idle connections; the others are told to close with their answer. */
  function stop(): Promise<void> {
    if (stopping) return closed
    stopping = true
    for (const outgoing of answers.values()) if (outgoing && !outgoing.writableFinished) closeAfter(outgoing)
    server.close()
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

/** Of each open connection the latest answer, under way or done; filled by whoever takes the request. */
function answersByConnection(server: Server): Map<Duplex, ServerResponse | undefined> {
  const answers = new Map<Duplex, ServerResponse | undefined>()
  server.on('connection', (socket) => {
    answers.set(socket, undefined)
    socket.once('close', () => answers.delete(socket))
  })
  return answers
}

/** How long a connection that is turned away may take to read why, and how many may; others are just closed. */
const partingMs = 1_000
const mostParting = 200

/** Connections beyond `most` are refused, whatever they ask for: those, as long as they are open. */
function turningAway(server: Server, most: number, refuse: (socket: Socket) => void): ReadonlySet<Duplex> {
  const parting = new Set<Duplex>()
  let open = 0
  server.on('connection', (socket) => {
    if (open < most) {
      open++
      socket.once('close', () => open--)
      return
    }
    if (parting.size >= mostParting) return void socket.destroy()
    parting.add(socket)
    const deadline = after(partingMs, () => socket.destroy())
    socket.once('close', () => {
      deadline.cancel()
      parting.delete(socket)
    })
    refuse(socket)
  })
  return parting
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
