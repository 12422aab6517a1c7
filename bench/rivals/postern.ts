/** Postern with its broker in this process, and over HTTP with its gateway in a process of its own. */
import { clientOf, sharedGateway } from '../gateway.ts'
import { body, fill, may, message } from '../place.ts'
import { type Contender, type Line, lineName } from './contender.ts'

const hourMs = 3_600_000
const dayMs = 24 * hourMs

export const postern: Contender = {
  name: 'Postern',
  costs: {},
  async open({ broker, databaseUrl }, { queues }) {
    const names = await putQueues((name) => broker.admin.putQueue(name, {}), queues)
    const nameOf = turns(names)
    const [first = ''] = names
    const take = (queue: string, max: number, waitMs: number, leaseMs: number | null) =>
      broker.receive(queue, { max, waitMs, leaseMs, signal: new AbortController().signal })
    return {
      databaseUrl,
      send: async (count) => (await broker.send(nameOf(), Array(count).fill(message))).length,
      async cycle(count) {
        const queue = nameOf()
        await broker.send(queue, Array(count).fill(message))
        const { messages } = await take(queue, count, 1000, null)
        await broker.settle(
          messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
          may,
        )
        return messages.length
      },
      async stand(kind, count) {
        if (kind === 'ready') await fill(broker, first, count)
        if (kind === 'delayed')
          for (let left = count; left > 0; left -= 500)
            await broker.send(first, Array(500).fill({ ...message, delayMs: dayMs }))
        if (kind === 'leased') {
          await fill(broker, first, count)
          for (let left = count; left > 0; ) {
            const { length } = (await take(first, 1000, 1000, hourMs)).messages
            if (length === 0) throw new Error(`${left} messages cannot be leased`)
            left -= length
          }
        }
      },
      purge: () => Promise.all(names.map((name) => broker.admin.purgeQueue(name, ['ready', 'leased', 'delayed']))),
      close: async () => {
        for (const name of names) await broker.admin.deleteQueue(name, true)
      },
    }
  },
}

let gatewayPid = 0

export const posternHttp: Contender = {
  name: 'Postern over HTTP',
  costs: { serving: () => [gatewayPid] },
  async open(place, { queues }) {
    const gateway = await sharedGateway(place)
    gatewayPid = gateway.pid
    const client = clientOf(gateway.url, 256)
    const names = await putQueues(client.putQueue, queues)
    const nameOf = turns(names)
    const batchOf = (count: number): string =>
      JSON.stringify({ messages: Array(count).fill({ body: body.toString() }) })
    const hundred = batchOf(100)
    async function send(queue: string, count: number): Promise<void> {
      if (count === 1) await client.send(queue, body)
      else
        await client.call(
          'POST',
          `/v1/queues/${queue}/messages/batch`,
          count === 100 ? hundred : batchOf(count),
          'application/json',
        )
    }
    const line: Line = {
      databaseUrl: place.databaseUrl,
      async send(count) {
        await send(nameOf(), count)
        return count
      },
      async cycle(count) {
        const queue = nameOf()
        await send(queue, count)
        const received = await client.receive(queue, count, 1)
        await client.settle(queue, received)
        return received.length
      },
      stand: () => Promise.reject(new Error('Let the contender in process put them there.')),
      purge: () => Promise.all(names.map((name) => client.purge(name))),
      close: () => client.close(),
    }
    return line
  },
}

async function putQueues(put: (name: string) => Promise<unknown>, count: number): Promise<string[]> {
  const line = lineName()
  const names = Array.from({ length: count }, (_, n) => `${line}-${n}`)
  for (const name of names) await put(name)
  return names
}

/** One after the other, for ever. */
export function turns(names: readonly string[]): () => string {
  let turn = 0
  return () => names[turn++ % names.length] ?? ''
}
