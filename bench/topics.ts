/**
 * Publishing through a topic beside plain sends of as many copies, by 256 callers in this process; and what a thousand bindings cost
 * when one of them matches.
 */
import type { Broker } from '#src/broker/index.ts'
import type { Filter } from '#src/model/index.ts'
import { messageOf, once, type Place } from './place.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const callers = 256
const fanOuts = [1, 10]
const sizes = [200, 2000]
const manyBindings = 1000
const routingKey = 'order.created.500'
const jsonBody = Buffer.from(JSON.stringify({ shop: 500, text: 'x'.repeat(176) }))

/** Binding `n` of a thousand; number 500 matches, alone. */
type Interests = (n: number) => { pattern: string; filter: Filter | null }

const exact: Interests = (n) => ({ pattern: `order.created.${n}`, filter: null })
const wildcard: Interests = (n) => ({ pattern: n % 2 === 0 ? `order.*.${n}` : `#.${n}`, filter: null })
const byBody: Interests = (n) => ({ pattern: '#', filter: { body: { shop: [n] } } })

export function topicsPart({ broker }: Place): Part {
  const fans = fanOuts.flatMap((copies) => sizes.map((bytes) => fanOut(broker, copies, bytes)))
  const one = routed(broker, '1 binding', exact, 500, 500)
  const oneFilter = routed(broker, '1 binding with a body filter', byBody, 500, 500)
  const many = (name: string, interests: Interests) =>
    routed(broker, `${manyBindings} bindings, ${name}`, interests, 1, manyBindings)
  const [allExact, allWildcard, allFilters] = [
    many('exact', exact),
    many('wildcard', wildcard),
    many('body filters', byBody),
  ]
  return {
    title: 'copies per second',
    scenarios: [
      ...fans.flatMap(({ scenarios }) => scenarios),
      ...[one, allExact, allWildcard, oneFilter, allFilters].map((each) => ({ ...each, apart: true })),
    ],
    latencies: [],
    ratios: [
      ...fans.flatMap(({ ratios }) => ratios),
      [allExact.name, one.name],
      [allWildcard.name, one.name],
      [allFilters.name, oneFilter.name],
    ],
  }
}

/** One publish stores `copies` messages; without a topic its caller sends to each queue by itself. */
function fanOut(broker: Broker, copies: number, bytes: number): Pick<Part, 'scenarios' | 'ratios'> {
  const message = messageOf(Buffer.alloc(bytes, 'x'))
  const queues = Array.from({ length: copies }, (_, n) => `fan-${n}`)
  const topicOf = (retentionMs: number): string => `fan-${copies}-${retentionMs}`
  const cell = (name: string, prepare: () => Promise<unknown>, call: () => Promise<number>): Scenario => ({
    name: `topics  ${name}, ${bytes} B x ${callers} callers`,
    prepare,
    run: (roundMs) => calling({ callers, call }, roundMs),
    tidy: () => Promise.all(queues.map((queue) => broker.admin.purgeQueue(queue, ['ready']))),
  })
  async function publish(topic: string): Promise<number> {
    return (await broker.publish(topic, 'key', message)).matched
  }
  async function sends(): Promise<number> {
    return (await Promise.all(queues.map((queue) => broker.send(queue, [message])))).flat().length
  }
  const made = (retentionMs: number) =>
    once(async () => {
      for (const queue of queues) await broker.admin.putQueue(queue, {})
      await broker.admin.putTopic(topicOf(retentionMs), { retentionMs })
      for (const queue of queues)
        await broker.admin.putBinding(topicOf(retentionMs), queue, { queue, pattern: '#', filter: null })
    })
  const hourMs = 3600_000
  const kept = cell(`publish to ${copies}, kept 1 h`, made(hourMs), () => publish(topicOf(hourMs)))
  const unkept = cell(`publish to ${copies}, not kept`, made(0), () => publish(topicOf(0)))
  const plain = cell(`plain sends to ${copies}`, made(0), sends)
  return {
    scenarios: [kept, unkept, plain],
    ratios: [
      [kept.name, plain.name],
      [unkept.name, plain.name],
    ],
  }
}

/** A topic with the bindings `first` to `last`, all to one queue. */
function routed(broker: Broker, name: string, interests: Interests, first: number, last: number): Scenario {
  const topic = `routed-${name.replace(/\W+/g, '-')}`
  const queue = 'routed'
  const message = messageOf(jsonBody)
  async function call(): Promise<number> {
    const { matched } = await broker.publish(topic, routingKey, message)
    if (matched !== 1) throw new Error(`${topic}: ${matched} matched`)
    return matched
  }
  return {
    name: `topics  publish, ${name} x ${callers} callers`,
    prepare: once(async () => {
      await broker.admin.putQueue(queue, {})
      await broker.admin.putTopic(topic, {})
      for (let n = first; n <= last; n++) await broker.admin.putBinding(topic, `b${n}`, { queue, ...interests(n) })
    }),
    run: (roundMs) => calling({ callers, call }, roundMs),
    tidy: () => broker.admin.purgeQueue(queue, ['ready']),
  }
}
