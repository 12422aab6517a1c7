/** Publishing: all who publish while one statement runs leave together in the next; the copies of one publish commit together. */
import { batch, randomToken } from '../base/index.ts'
import {
  BrokerError,
  laneOf,
  messageId,
  type NewMessage,
  type Observe,
  type Published,
  type Tracing,
  unobserved,
} from '../model/index.ts'
import type {
  CopyItem,
  Database,
  FreedKey,
  PublishAnswer,
  PublishItem,
  PublishResult,
  StoredCopy,
} from '../store/index.ts'
import * as store from '../store/index.ts'
import { gathering } from './gathering.ts'
import { type Handable, type HandOver, leasedRow } from './handover.ts'
import { noTopic, type TopicRoutes, type Topics } from './topics.ts'
import { traced } from './traced.ts'

export type Publisher = (topic: string, routingKey: string, message: NewMessage) => Promise<Published>

type Copy = CopyItem & Handable
type Item = PublishItem & { copies: Copy[] }

type Options = {
  db: Database
  topics: Topics
  handOver: HandOver
  gateway: string
  appended(queueId: number, lane: number, position: number): void
  scheduled(inMs: number): void
  sent(queueId: number, count: number): void
  elect(keys: readonly FreedKey[]): void
  observe?: Observe
  tracing?: Tracing | undefined
}

export function createPublisher({
  db,
  topics,
  handOver,
  gateway,
  appended,
  scheduled,
  sent,
  elect,
  observe = unobserved,
  tracing,
}: Options): Publisher {
  const enqueue = batch<Item, { result: PublishResult; nowMs: number }>(
    (items) => traced(tracing, 'store', items, () => run(items)),
    {
      lanes: 2,
      maxWeight: 1000,
      weigh: ({ copies, message }) => 1 + copies.length + message.body.length / 16_384,
      maxWaiting: 20_000,
      ...gathering('The gateway has too many messages waiting to be stored.', { kind: 'publish', observe }),
    },
  )

  async function run(items: readonly Item[]) {
    const copies = items.flatMap((item) => item.copies)
    const hands = handOver.reserve(copies)
    const token = randomToken()
    let answer: PublishAnswer
    try {
      answer = await store.publish(db, items, hands.probes, token, gateway)
    } catch (error) {
      handOver.finish(hands, token, () => null)
      throw error
    }
    const rows = new Map(
      items.flatMap((item, at) =>
        storedOf(item, answer.results[at])
          .filter(({ stored }) => stored.handed)
          .map(
            ({ copy, stored, id }) =>
              [copy, leasedRow({ ...copy, message: item.message }, id, stored.position, answer.nowMs)] as const,
          ),
      ),
    )
    handOver.finish(hands, token, (copy) => rows.get(copy) ?? null)
    for (const [at, item] of items.entries()) tell(item, answer.results[at], answer.nowMs)
    return answer.results.map((result) => ({ result, nowMs: answer.nowMs }))
  }

  function tell(item: Item, result: PublishResult | undefined, nowMs: number): void {
    for (const { copy, stored } of storedOf(item, result)) {
      sent(copy.queueId, 1)
      const { key } = item.message
      if (stored.waiting) {
        if (key !== null) elect([{ queueId: copy.queueId, key, after: 0 }])
      } else if (stored.dueMs !== null) scheduled(stored.dueMs - nowMs)
      else if (!stored.handed) appended(copy.queueId, copy.lane, stored.position)
    }
  }

  /**
   * With copies for bounded queues: alone, so that one that is full undoes nothing but this publish. Few at a time, because each counts
   * what is in the queue and holds a connection meanwhile.
   */
  const storeBounded = batch<Item, PublishResult>(async ([item]) => (item ? [await storeAlone(item)] : []), {
    lanes: 2,
    maxWeight: 1,
    weigh: ({ message }) => 1 + message.body.length / 16_384,
    maxWaiting: 1_000,
    ...gathering('The gateway has too many messages waiting for bounded queues.', { kind: 'publish', observe }),
  })

  async function storeAlone(item: Item): Promise<PublishResult> {
    for (const copy of item.copies) copy.handMs = 0
    const { results, nowMs } = await traced(tracing, 'store', [item], () => store.publishBounded(db, item))
    const result = results[0] ?? { status: 'stale' as const }
    tell(item, result, nowMs)
    return result
  }

  /** First by the routes that are kept; when those are old, by what is there now. */
  return async function publish(name, routingKey, message) {
    const kept = await storeOne(itemOf(await topics.routes(name, false), routingKey, message))
    const result =
      kept.status === 'stale' ? await storeOne(itemOf(await topics.routes(name, true), routingKey, message, 0)) : kept
    switch (result.status) {
      case 'stored':
        observe.published(result.copies.length === 0 ? 'unmatched' : 'stored')
        return { id: messageId(result.id), matched: result.copies.length, deduplicated: false }
      case 'duplicate':
        observe.published('deduplicated')
        return { id: messageId(result.id), matched: 0, deduplicated: true }
      case 'full':
        observe.published('refused')
        throw new BrokerError('queue_full', `The queue ${result.queue} is full, so nothing was published.`, {
          retryAfterS: 1,
        })
      default:
        throw noTopic(name)
    }
  }

  async function storeOne(item: Item): Promise<PublishResult> {
    const { result } = await enqueue(item)
    return result.status === 'bounded' ? await storeBounded(item) : result
  }
}

type Stored = { copy: Copy; stored: StoredCopy; id: number }

function storedOf(item: Item, result: PublishResult | undefined): Stored[] {
  if (result?.status !== 'stored') return []
  return result.copies.flatMap((stored) => {
    const copy = item.copies[stored.copy]
    return copy ? [{ copy, stored, id: result.id }] : []
  })
}

/** One copy for each queue, however many of its bindings match. Consumers see where it was published in its headers. */
function itemOf(routes: TopicRoutes, routingKey: string, message: NewMessage, version = routes.version): Item {
  const lifo = new Map(routes.match(routingKey, message).map((route) => [route.queueId, route.lifo]))
  const lane = laneOf(message.priority, false)
  const immediate = (message.delayMs ?? 0) === 0 && message.deliverAtMs === null
  const doubtful = message.dedupId !== null
  const headers = {
    'postern-topic': routes.topic.name,
    ...(routingKey === '' ? {} : { 'postern-routing-key': routingKey }),
  }
  return {
    topicId: routes.topic.id,
    version,
    routingKey,
    lane,
    message: { ...message, headers: { ...message.headers, ...headers } },
    copies: [...lifo].map(([queueId, descending]) => ({
      ...{ queueId, lane, immediate, doubtful, descending },
      ...{ handMs: 0, handFence: 0 },
    })),
  }
}
