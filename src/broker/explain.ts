/** Gathers what is known about one message, from Postgres and from the gateways' memory, for `model/explain` to judge. */
import {
  type AttemptFact,
  BrokerError,
  countedAhead,
  type ExplainFacts,
  type Explanation,
  explain,
  type Holder,
  type KeyFacts,
  type MessageFacts,
  messageId,
  parseMessageId,
  type Queue,
  type SubscriptionFacts,
} from '../model/index.ts'
import type { AttemptTrace, Database, KeyTrace, SubscriptionTrace, TraceRow } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Counter } from './admin.ts'
import type { Cluster } from './cluster.ts'
import type { Holds } from './holds.ts'
import type { Queues } from './queues.ts'
import type { Rates } from './rates.ts'

type Options = {
  db: Database
  queues: Queues
  counted: Counter
  holds: Holds
  cluster: Pick<Cluster, 'gateway' | 'ask'>
  unrecorded: Rates['unrecorded']
}

/** Other gateways answer within a few milliseconds. */
const askMs = 500
const subscriptionsLookedAt = 20
const attemptsLookedAt = 10_000

export function createExplainer(options: Options): (queue: string, id: string) => Promise<Explanation> {
  const { db, queues, counted, unrecorded } = options

  async function consumed(queue: Queue): Promise<boolean> {
    if (unrecorded(queue.id).settled > 0 || (await store.hasLeases(db, queue.id))) return true
    return (await store.ratesOf(db, queue.id)).settled > 0
  }

  async function factsOf(queue: Queue, number: number, row: TraceRow | null): Promise<ExplainFacts> {
    const isHere = row !== null && row.queue_id === queue.id
    const isReady = isHere && row.place === 'messages' && row.token === 0
    const [subscriptions, attempts, published] = await Promise.all([
      store.traceSubscriptions(db, queue.id, subscriptionsLookedAt),
      store.attemptsOfMessage(db, queue.id, number, subscriptionsLookedAt, attemptsLookedAt),
      store.publishedAs(db, number),
    ])
    const countsLeases = isHere && (queue.maxLeased !== null || subscriptions.length > 0)
    const [ahead, key, isConsumed, counts, holder] = await Promise.all([
      isReady
        ? store.countAhead(db, { queueId: queue.id, lane: row.lane, position: row.position }, countedAhead + 1)
        : 0,
      isHere && row.place === 'waiting' && row.key !== null
        ? store.traceKey(db, queue.id, row.key, row.position, countedAhead + 1)
        : null,
      isReady ? consumed(queue) : true,
      countsLeases ? counted([queue.id]) : null,
      isHere && row.token !== 0 ? holderOf(options, row) : null,
    ])
    return {
      now: row?.now ?? new Date(await store.databaseNowMs(db)),
      queue,
      message: row && messageFrom(row, queue),
      published: published && { at: published.at, topic: published.topic, routingKey: published.routing_key },
      ahead,
      leased: counts?.get(queue.id)?.leased ?? 0,
      key: key && keyFrom(key),
      subscriptions: subscriptions.map(subscriptionFrom),
      holder,
      attempts: attempts.map(attemptFrom),
      consumed: isConsumed,
    }
  }

  return async function explainMessage(name, id) {
    const queue = await queues.fresh(name)
    const number = parseMessageId(id)
    if (number === null) throw unknownMessage(id)
    const row = await store.traceMessage(db, queue.id, number)
    const facts = await factsOf(queue, number, row)
    if (!row && facts.attempts.length === 0) throw unknownMessage(id)
    return explain(id, facts)
  }
}

const unknownMessage = (id: string): BrokerError =>
  new BrokerError(
    'message_not_found',
    `There is no message ${id} in this queue: it was acknowledged, deleted, purged, dropped or expired, or never here. What is done leaves no trace, but for webhook attempts.`,
  )

/** This gateway's memory first, then the others'. */
async function holderOf({ db, holds, cluster }: Options, row: TraceRow): Promise<Holder | null> {
  const { queue_id: queueId, lane, position, token } = row
  const own = holds.find({ queueId, lane, position, token })
  const found = own
    ? { gateway: cluster.gateway, by: own.by, leasedAtMs: own.leasedAtMs }
    : await askOthers(cluster, `${token} ${queueId} ${lane} ${position}`)
  if (!found || found.by === '') return null
  const { by, gateway } = found
  const leasedAt = new Date(found.leasedAtMs)
  if (!by.startsWith('#'))
    return { key: by, keyName: await store.holderName(db, { key: by }), subscription: null, gateway, leasedAt }
  const subscription = await store.holderName(db, { subscription: Number(by.slice(1)) })
  return subscription === null ? null : { key: null, keyName: null, subscription, gateway, leasedAt }
}

async function askOthers(cluster: Pick<Cluster, 'ask'>, question: string) {
  const answer = await cluster.ask(question, askMs)
  const [by = '', leasedAtMs] = answer?.text.split(' ') ?? []
  return answer && { gateway: answer.gateway, by, leasedAtMs: Number(leasedAtMs) }
}

/** What this gateway answers to another's question; null: nothing is remembered here. */
export function answerHeld(holds: Holds, question: string): string | null {
  const [token = 0, queueId = 0, lane = 0, position = 0] = question.split(' ').map(Number)
  const hold = holds.find({ token, queueId, lane, position })
  return hold && hold.by !== '' ? `${hold.by} ${hold.leasedAtMs}` : null
}

const messageFrom = (row: TraceRow, queue: Queue): MessageFacts => ({
  id: messageId(row.id),
  place: row.place,
  elsewhere: row.queue_id === queue.id ? null : row.queue,
  attempts: row.attempts,
  key: row.key,
  headers: row.headers ?? {},
  enqueuedAt: row.enqueued_at,
  expiresAt: row.expires_at,
  moved: row.id !== Math.abs(row.position),
  dueAt: row.due_at,
  leasedUntil: row.leased_until,
  death:
    row.reason === null || row.died_at === null
      ? null
      : { reason: row.reason, lastError: row.last_error, diedAt: row.died_at },
})

const keyFrom = (row: KeyTrace): KeyFacts => ({
  blocked:
    row.blocked_at === null || row.blocked_by === null || row.reason === null
      ? null
      : {
          messageId: messageId(row.blocked_by),
          reason: row.reason,
          lastError: row.last_error,
          since: row.blocked_at,
        },
  first:
    row.first_id === null || row.first_state === null
      ? null
      : { id: messageId(row.first_id), state: row.first_state, until: row.first_until },
  before: row.before,
})

const subscriptionFrom = (row: SubscriptionTrace): SubscriptionFacts => ({
  id: row.name,
  disabled: row.disabled,
  circuit: row.circuit,
  failures: row.failures,
  failingSince: row.failing_since,
  heldUntil: row.held_until,
  concurrency: row.concurrency,
  rate: row.rate_count === null || row.rate_per_ms === null ? null : { count: row.rate_count, perMs: row.rate_per_ms },
  served: row.served,
})

const attemptFrom = (row: AttemptTrace): AttemptFact => ({
  subscription: row.subscription,
  attempt: row.attempt,
  at: row.at,
  succeeded: row.succeeded,
  status: row.status,
  durationMs: row.duration_ms,
  error: row.error,
  nextAttemptAt: row.next_attempt_at,
})
