/**
 * Connections to endpoints: one request at a time on each, kept for a few seconds for the next, and cut for good when an attempt is
 * over before its answer is. Only allowed addresses are dialled.
 *
 * undici's Agent is not used: after an abort its clients dial anew for the request that was given up, and an endpoint that hangs
 * would get twice the connections (7.30, measured: 5 for 3 attempts). A client that is destroyed does not.
 */
import { isIP, type LookupFunction, type Socket } from 'node:net'
import { buildConnector, Client, errors } from 'undici'
import { subscriptionLimits } from '../model/index.ts'
import { forbiddenAddress, guardedLookup } from './address.ts'

export type Connections = {
  /** An idle one, or one yet to be dialled. Throws when closed. */
  take(origin: string): Client
  /** Its answer was read to the end. */
  giveBack(origin: string, client: Client): void
  /** Breaks off what is under way on it. */
  cut(client: Client): void
  close(): Promise<void>
}

/** Below what servers commonly keep (Node's 5 s): a connection that is just being closed loses the request. */
const keepAliveMs = 4_000
/** Off what a server says that it keeps (`Keep-Alive: timeout=5`), for the way there. */
const keepAliveMarginMs = 1_000
const headBytes = 32 * 1024
/** For each address of a name but the last. Node's 250 ms gives up on endpoints that are merely far away. */
const oneAddressMs = 1_000

const clientOptions: Client.Options = {
  pipelining: 1,
  // The attempt's own deadline is exact; undici's timers are not.
  headersTimeout: 0,
  bodyTimeout: 0,
  keepAliveTimeout: keepAliveMs,
  keepAliveMaxTimeout: keepAliveMs,
  keepAliveTimeoutThreshold: keepAliveMarginMs,
  maxHeaderSize: headBytes,
}

export function createConnections(allow: (address: string) => boolean, lookup: LookupFunction): Connections {
  const all = new Set<Client>()
  const connected = new Set<Client>()
  const idle = newIdle()
  const connect = guardedConnector(allow, lookup)
  let closed = false

  function dialled(origin: string): Client {
    const client = new Client(origin, { ...clientOptions, connect })
    all.add(client)
    client.on('connect', () => connected.add(client))
    client.on('disconnect', () => {
      connected.delete(client)
      // One with a request that is not yet sent dials again by itself.
      if (idle.remove(origin, client)) cut(client)
    })
    return client
  }

  function cut(client: Client): void {
    all.delete(client)
    client.destroy(() => {})
  }

  return {
    take(origin) {
      if (closed) throw new errors.ClientClosedError()
      const client = idle.last(origin)
      if (!client) return dialled(origin)
      idle.remove(origin, client)
      return client
    },
    giveBack(origin, client) {
      // An answer may also end with its connection.
      if (closed || !connected.has(client)) cut(client)
      else idle.add(origin, client)
    },
    cut,
    async close() {
      closed = true
      await Promise.all([...all].map((client) => client.destroy()))
    },
  }
}

type Idle = {
  /** The one used last: the least likely to be closed by the other side. */
  last(origin: string): Client | undefined
  add(origin: string, client: Client): void
  /** Whether it was there. An origin with no idle one is forgotten: there may be many. */
  remove(origin: string, client: Client): boolean
}

function newIdle(): Idle {
  const byOrigin = new Map<string, Client[]>()
  return {
    last: (origin) => byOrigin.get(origin)?.at(-1),
    add(origin, client) {
      const clients = byOrigin.get(origin)
      if (clients) clients.push(client)
      else byOrigin.set(origin, [client])
    },
    remove(origin, client) {
      const clients = byOrigin.get(origin) ?? []
      const at = clients.lastIndexOf(client)
      if (at >= 0) clients.splice(at, 1)
      if (clients.length === 0) byOrigin.delete(origin)
      return at >= 0
    },
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
