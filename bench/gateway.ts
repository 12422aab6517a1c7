/** Gateways in processes of their own, and the requests that a client of them makes. */
import { Agent, request } from 'undici'
import { type Child, startChild } from './child.ts'
import { once, type Place } from './place.ts'

export type Client = {
  /** The answer's body; throws for any status from 300 on. */
  call(
    method: 'POST' | 'PUT' | 'DELETE' | 'GET',
    path: string,
    body?: string | Buffer,
    type?: string,
    headers?: Record<string, string>,
  ): Promise<string>
  send(queue: string, body: string | Buffer): Promise<void>
  receive(queue: string, max: number, waitS: number): Promise<Received[]>
  settle(queue: string, received: readonly Received[]): Promise<void>
  putQueue(queue: string): Promise<unknown>
  purge(queue: string): Promise<unknown>
  close(): Promise<void>
}
export type Received = { id: string; receipt: string; body: string; attempt: number }

/** Goes with the place, or when it is stopped. `environment`: settings besides the database and the port. */
export async function startGateway(place: Place, environment: Record<string, string> = {}): Promise<Child> {
  const gateway = await startChild('./gateway_process.ts', [], {
    DATABASE_URL: place.databaseUrl,
    PORT: '0',
    ALLOW_PRIVATE_WEBHOOKS: 'true',
    LOG_LEVEL: 'silent',
    ...environment,
  })
  place.closing.push(() => gateway.stop())
  return gateway
}

const shared = new WeakMap<Place, Promise<Child>>()

/** The one gateway that all scenarios of a part share which need but one. */
export function sharedGateway(place: Place): Promise<Child> {
  const gateway = shared.get(place) ?? startGateway(place)
  shared.set(place, gateway)
  return gateway
}

/** After each part, so that the next one meets no gateway but its own. */
export async function endSharedGateway(place: Place): Promise<void> {
  const gateway = shared.get(place)
  shared.delete(place)
  await (await gateway)?.stop()
}

/** What is made once for a place. */
export function perPlace<T>(make: (place: Place) => Promise<T>): (place: Place) => Promise<T> {
  const made = new WeakMap<Place, () => Promise<T>>()
  return (place) => {
    const known = made.get(place) ?? once(() => make(place))
    made.set(place, known)
    return known()
  }
}

export function clientOf(url: string, connections: number): Client {
  const dispatcher = new Agent({ connections, pipelining: 1, headersTimeout: 90_000, bodyTimeout: 90_000 })
  const call: Client['call'] = async (method, path, body, type = 'text/plain', headers = {}) => {
    const answer = await request(`${url}${path}`, {
      dispatcher,
      method,
      ...(body === undefined ? {} : { body, headers: { 'content-type': type, ...headers } }),
    })
    const text = await answer.body.text()
    if (answer.statusCode >= 300) throw new Error(`${method} ${path}: ${answer.statusCode} ${text}`)
    return text
  }
  return {
    call,
    async send(queue, body) {
      await call('POST', `/v1/queues/${queue}/messages`, body)
    },
    async receive(queue, max, waitS) {
      return JSON.parse(await call('POST', `/v1/queues/${queue}/receive?max=${max}&wait=${waitS}s`)).messages
    },
    async settle(queue, received) {
      if (received.length === 0) return
      if (received.length === 1) await call('DELETE', `/v1/leases/${received[0]?.receipt}`)
      else {
        const ack = JSON.stringify({ ack: received.map(({ receipt }) => receipt) })
        await call('POST', `/v1/queues/${queue}/settle`, ack, 'application/json')
      }
    },
    putQueue: (queue) => call('PUT', `/v1/queues/${queue}`),
    purge: (queue) => call('POST', `/v1/queues/${queue}/purge`),
    close: () => dispatcher.close(),
  }
}
