/** Sending: all who send while one statement runs leave together in the next, whatever their queues. */
import { batch, randomToken } from '../base/index.ts'
import {
  BrokerError,
  laneOf,
  messageId,
  type NewMessage,
  type Observe,
  type Queue,
  type Sent,
  type Tracing,
  unobserved,
} from '../model/index.ts'
import type { Database, FreedKey, SendAnswer, SendItem, SendResult } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Elector } from './elect.ts'
import { gathering } from './gathering.ts'
import { type Handable, type HandOver, leasedRow } from './handover.ts'
import type { Queues } from './queues.ts'
import { traced } from './traced.ts'

type Call = { queue: Queue; messages: readonly NewMessage[]; atomic: boolean }
type Outcome = { results: SendResult[]; nowMs: number }
type Item = SendItem & Handable

export type Writer = (name: string, messages: readonly NewMessage[], atomic: boolean) => Promise<(Sent | Error)[]>

type Options = {
  db: Database
  queues: Queues
  handOver: HandOver
  /** Of this gateway. */
  gateway: string
  /** Messages became ready. */
  appended(queueId: number, lane: number, position: number): void
  scheduled(inMs: number): void
  sent(queueId: number, count: number): void
  /** Messages were stored that may be the next of their keys. */
  elect(keys: readonly FreedKey[]): void
  /** What is known of the order of keys. */
  order: Pick<Elector, 'doneUpTo' | 'learnt'>
  observe?: Observe
  tracing?: Tracing | undefined
}

/** So that a batch of the largest bodies is about 16 MiB, and one of small ones a thousand messages. */
const weigh = (call: Call): number => call.messages.reduce((sum, message) => sum + 1 + message.body.length / 16_384, 0)

/** Sends to keyed and fair queues take locks, so they do not travel with the others. */
const keyedGroup = -1
const hasOrderedKeys = (queue: Queue): boolean => queue.order === 'keyed' || queue.fair
const isBounded = (queue: Queue): boolean => queue.maxMessages !== null || queue.maxBytes !== null

export function createWriter(options: Options): Writer {
  const { db, queues, handOver, gateway, order, observe = unobserved, tracing } = options

  const enqueue = batch<Call, Outcome>(run, {
    lanes: 2,
    maxWeight: 1000,
    weigh,
    maxWaiting: 20_000,
    ...gathering('The gateway has too many messages waiting to be stored.', { kind: 'send', observe }),
  })

  async function run(calls: readonly Call[]): Promise<(Outcome | Error)[]> {
    const outcomes: (Outcome | Error)[] = calls.map(() => ({ results: [], nowMs: 0 }))
    const groups = new Map<number, number[]>()
    calls.forEach((call, at) => {
      const group = isBounded(call.queue) ? call.queue.id : hasOrderedKeys(call.queue) ? keyedGroup : 0
      const members = groups.get(group)
      if (members) members.push(at)
      else groups.set(group, [at])
    })
    await Promise.all(
      [...groups].map(async ([group, members]) => {
        const chosen = members.map((at) => calls[at] as Call)
        const items = chosen.flatMap(itemsOf)
        try {
          const answer = await traced(tracing, 'store', items, () =>
            group > 0 ? storeBounded(items, chosen[0]?.queue) : storeUnbounded(items, group === keyedGroup),
          )
          let next = 0
          members.forEach((at, n) => {
            const count = chosen[n]?.messages.length ?? 0
            outcomes[at] = { results: answer.results.slice(next, next + count), nowMs: answer.nowMs }
            next += count
          })
        } catch (error) {
          // Alone, the batch may try each caller by itself; of several groups only this one has failed.
          if (groups.size === 1) throw error
          for (const at of members) outcomes[at] = error as Error
        }
      }),
    )
    return outcomes
  }

  async function storeUnbounded(items: Item[], keyed: boolean): Promise<SendAnswer> {
    const hands = handOver.reserve(items)
    const token = randomToken()
    let answer: SendAnswer
    try {
      answer = await store.send(db, items, hands.probes, token, gateway, keyed ? order.doneUpTo : null)
    } catch (error) {
      handOver.finish(hands, token, () => null)
      throw error
    }
    const { results, nowMs } = answer
    handOver.finish(hands, token, (item) => {
      const result = results[items.indexOf(item)]
      if (result?.status !== 'stored' || !result.handed) return null
      return leasedRow(item, result.id, item.descending ? -result.id : result.id, nowMs)
    })
    tell(items, answer)
    return answer
  }

  async function storeBounded(items: Item[], queue: Queue | undefined): Promise<SendAnswer> {
    const hasOrder = queue !== undefined && hasOrderedKeys(queue)
    const answer = await store.sendBounded(db, items, hasOrder ? order.doneUpTo : null)
    // Messages of this very statement could not be dropped by it: what did not fit goes once more.
    const again = items.filter((item, at) => answer.results[at]?.status === 'full' && item.group === 0)
    if (queue?.overflow === 'drop_oldest' && again.length > 0 && again.length < items.length) {
      // Each is told of once, by the statement that decided about it.
      const isDecided = (at: number): boolean => answer.results[at]?.status !== 'full' || items[at]?.group !== 0
      tell(
        items.filter((_, at) => isDecided(at)),
        { ...answer, results: answer.results.filter((_, at) => isDecided(at)) },
      )
      const rest = await storeBounded(again, queue)
      again.forEach((item, at) => {
        const result = rest.results[at]
        if (result) answer.results[items.indexOf(item)] = result
      })
    } else tell(items, answer)
    return answer
  }

  function tell(items: readonly SendItem[], { results, nowMs }: SendAnswer): void {
    const counts = new Map<number, number>()
    const keys: FreedKey[] = []
    items.forEach((item, at) => {
      const result = results[at]
      if (result?.status === 'duplicate') observe.deduplicated(item.queueId, 1)
      else if (result?.status === 'full') observe.refused(item.queueId, 1)
      if (result?.status !== 'stored') return
      counts.set(item.queueId, (counts.get(item.queueId) ?? 0) + 1)
      const { key } = item.message
      if (result.waiting) {
        if (key !== null) keys.push({ queueId: item.queueId, key, after: 0 })
        return
      }
      // It is the first of its key: nothing before it is left.
      if (item.keyed && key !== null) order.learnt({ queueId: item.queueId, key, after: result.id - 1 })
      if (result.dueMs !== null) options.scheduled(result.dueMs - nowMs)
      // The sign of a lifo queue's positions: lower is newer, and lower is what a mark needs.
      else if (!result.handed) options.appended(item.queueId, item.lane, item.descending ? -result.id : result.id)
    })
    for (const [queueId, count] of counts) options.sent(queueId, count)
    options.elect(keys)
  }

  return async function send(name, messages, atomic) {
    let queue = await queues.byName(name)
    let outcome = await enqueue({ queue, messages, atomic })
    if (outcome.results.some((result) => result.status === 'missing')) {
      // Deleted, made anew, or given a bound or a delay since we last looked.
      queue = await queues.fresh(name)
      outcome = await enqueue({ queue, messages, atomic })
    }
    const sent = outcome.results.map((result) => sentFrom(result, outcome.nowMs, name))
    const refused = sent.find((result) => result instanceof Error)
    if (atomic && refused instanceof Error) throw refused
    return sent
  }
}

/** `group` is the caller's number within its statement. */
function itemsOf({ queue, messages, atomic }: Call, at: number): Item[] {
  const keyed = queue.order === 'keyed'
  const firsts = hasOrderedKeys(queue) ? new Set<string>() : null
  /** Whether order leaves a chance that it is ready at once. */
  const isOpen = (key: string | null): boolean => {
    if (key === null || !firsts) return true
    if (queue.fair || firsts.has(key)) return false
    firsts.add(key)
    return true
  }
  return messages.map((message) => ({
    queueId: queue.id,
    lane: laneOf(message.priority, false),
    message,
    delayed: queue.delayMs > 0 || (message.delayMs ?? 0) > 0 || message.deliverAtMs !== null,
    immediate: (message.delayMs ?? queue.delayMs) === 0 && message.deliverAtMs === null && isOpen(message.key),
    doubtful: message.dedupId !== null,
    group: atomic ? at + 1 : 0,
    handMs: 0,
    handFence: 0,
    descending: queue.order === 'lifo',
    keyed,
  }))
}

function sentFrom(result: SendResult, nowMs: number, name: string): Sent | Error {
  switch (result.status) {
    case 'stored':
      return {
        id: messageId(result.id),
        availableAt: new Date(result.dueMs === null ? nowMs : result.dueMs),
        deduplicated: false,
      }
    case 'duplicate':
      return { id: messageId(result.id), availableAt: new Date(nowMs), deduplicated: true }
    case 'full':
      return new BrokerError('queue_full', `The queue ${name} is full.`, { retryAfterS: 1 })
    case 'missing':
      return new BrokerError('queue_not_found', `There is no queue ${name}: create it with PUT /v1/queues/${name}.`)
  }
}
