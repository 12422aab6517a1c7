/** Durable sends over HTTP beside a Hono server that stores nothing, both in a process of their own; one, two and four gateways on one Postgres. */
import { type Child, startChild } from './child.ts'
import { type Client, clientOf, sharedGateway, startGateway } from './gateway.ts'
import { createLoad, type Load } from './load.ts'
import { body, once, type Place } from './place.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const connections = 64
const mostGateways = 4

export const httpNames = {
  bare: `http  POST x ${connections} connections, bare Hono that stores nothing`,
  send: `http  POST x ${connections} connections, Postern, durable send`,
  sendWithReceiver: `http  POST x ${connections} connections, Postern, durable send to receivers that wait`,
}
export const gatewaysName = (work: 'send' | 'cycle', count: number): string =>
  `gateways  ${work} 1 x 256, ${count} of them`

export const httpParts = (place: Place): Part[] => [sendPart(place), gatewaysPart(place)]

function sendPart(place: Place): Part {
  let serving: number[] = []
  const load = createLoad(place)
  let admin: Client | undefined
  const bare = once(async () => {
    const child = await startChild('./bare_process.ts')
    place.closing.push(() => child.stop())
    return child
  })
  const gateway = once(async () => {
    const started = await sharedGateway(place)
    admin = clientOf(started.url, 1)
    for (const queue of ['http-send', 'http-taken']) await admin.putQueue(queue)
    return started
  })
  const cell = (name: string, server: () => Promise<Child>, path: string): Scenario => ({
    name,
    prepare: async () => {
      serving = [(await server()).pid]
      await load.start()
    },
    run: async (roundMs) => await load.postRate(`${(await server()).url}${path}`, connections, roundMs),
    tidy: async () => (path === '' ? undefined : await admin?.purge('http-send')),
    serving: () => serving,
    asking: load.pids,
  })
  return {
    title: 'requests per second',
    scenarios: [
      cell(httpNames.bare, bare, ''),
      cell(httpNames.send, gateway, '/v1/queues/http-send/messages'),
      withReceivers(gateway, load),
    ],
    latencies: [],
    ratios: [[httpNames.send, httpNames.bare]],
  }
}

/** Eight clients take what is sent, a hundred at a time, by `settle?receive=`. */
function withReceivers(gateway: () => Promise<Child>, load: Load): Scenario {
  let pid = 0
  return {
    name: httpNames.sendWithReceiver,
    prepare: async () => {
      pid = (await gateway()).pid
      await load.start()
    },
    async run(roundMs) {
      const { url } = await gateway()
      const client = clientOf(url, 8)
      let over = false
      const taking = Array.from({ length: 8 }, async () => {
        for (let receipts: string[] = []; !over || receipts.length > 0; ) {
          const ack = JSON.stringify({ ack: receipts })
          const answer = await client.call(
            'POST',
            `/v1/queues/http-taken/settle?receive=100&wait=1s`,
            ack,
            'application/json',
          )
          receipts = (JSON.parse(answer).messages as { receipt: string }[]).map(({ receipt }) => receipt)
        }
      })
      const rate = await load.postRate(`${url}/v1/queues/http-taken/messages`, connections, roundMs)
      over = true
      await Promise.all(taking)
      await client.close()
      return rate
    },
    serving: () => [pid],
    asking: load.pids,
  }
}

/** The same 256 callers, spread over so many gateways; those that are not asked are idle. */
function gatewaysPart(place: Place): Part {
  let children: Child[] = []
  let clients: Client[] = []
  const queue = 'gateways'
  const started = once(async () => {
    while (children.length < mostGateways) children = [...children, await startGateway(place)]
    clients = children.map(({ url }) => clientOf(url, 256))
    await clients[0]?.putQueue(queue)
  })
  async function cycle(client: Client): Promise<number> {
    await client.send(queue, body)
    const received = await client.receive(queue, 1, 1)
    await client.settle(queue, received)
    return received.length
  }
  async function send(client: Client): Promise<number> {
    await client.send(queue, body)
    return 1
  }
  const cell = (work: 'send' | 'cycle', count: number): Scenario => ({
    name: gatewaysName(work, count),
    async prepare() {
      await started()
      await clients[0]?.purge(queue)
    },
    async run(roundMs) {
      const call = async (caller: number): Promise<number> => {
        const client = clients[caller % count]
        return client ? await (work === 'send' ? send(client) : cycle(client)) : 0
      }
      return await calling({ callers: 256, call }, roundMs)
    },
    serving: () => children.map(({ pid }) => pid),
  })
  const counts = [1, 2, mostGateways]
  return {
    title: 'messages per second over HTTP',
    scenarios: [...counts.map((count) => cell('send', count)), ...counts.map((count) => cell('cycle', count))],
    latencies: [],
    ratios: [2, mostGateways].flatMap((count): [string, string][] => [
      [gatewaysName('send', count), gatewaysName('send', 1)],
      [gatewaysName('cycle', count), gatewaysName('cycle', 1)],
    ]),
    close: () => Promise.all(children.map((child) => child.stop())),
  }
}
