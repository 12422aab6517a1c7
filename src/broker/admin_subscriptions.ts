/** Webhook subscriptions, as people create and change them; and messages that are delivered once more. */
import { randomBytes } from 'node:crypto'
import {
  type Attempt,
  BrokerError,
  compileFilter,
  defaultSettings,
  invalid,
  keyMatches,
  messageId,
  messageLimits,
  parsedJson,
  testMessageId,
  topicLimits,
} from '../model/index.ts'
import type {
  Appended,
  AttemptRow,
  Database,
  FreedKey,
  LoggedRow,
  Revived,
  StoredSubscription,
} from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Counter } from './admin.ts'
import { cutPage, encodeCursor, wholeCursor } from './cursor.ts'
import { noTopic } from './topics.ts'
import type { ReplayRange, SubscriptionAdmin, SubscriptionWithCounts } from './types.ts'

type Options = {
  db: Database
  counted: Counter
  appended(item: Appended): void
  elect(keys: readonly FreedKey[]): void
  /** A subscription is not as it was. */
  changed(number: number): void
  /** A subscription waits for a gateway. */
  free(): void
  queueDeleted(queueId: number): void
}

const replayStep = 1000

export function createSubscriptionAdmin(options: Options): SubscriptionAdmin {
  const { db, counted, appended, elect, changed, free, queueDeleted } = options

  async function stored(id: string): Promise<StoredSubscription> {
    const found = await store.findSubscription(db, id)
    if (!found) throw noSubscription(id)
    return found
  }

  async function withCounts(list: readonly StoredSubscription[]): Promise<SubscriptionWithCounts[]> {
    const counts = await counted([...new Set(list.map((each) => each.queueId))])
    return list.map(({ number: _number, queueId, version: _version, secrets: _secrets, ...subscription }) => {
      const { ready = 0, delayed = 0, leased = 0, dead = 0 } = counts.get(queueId) ?? {}
      return { ...subscription, counts: { ready, delayed, leased, dead } }
    })
  }

  async function one(subscription: StoredSubscription): Promise<SubscriptionWithCounts> {
    const [found] = await withCounts([subscription])
    return found as SubscriptionWithCounts
  }

  const setDisabled = async (id: string, disabled: 'requested' | null) => {
    const { number } = await stored(id)
    if (!(await store.setDisabled(db, number, disabled))) throw noSubscription(id)
    changed(number)
    if (disabled === null) free()
    return await one(await stored(id))
  }

  async function replay(id: string, { state, from, to }: ReplayRange): Promise<number> {
    const subscription = await stored(id)
    // What is published, or dies again, from now on is not part of it.
    const nowMs = await store.databaseNowMs(db)
    const span = { fromMs: from?.getTime() ?? 0, toMs: Math.min(to?.getTime() ?? nowMs, nowMs) }
    const tell = (some: Revived): number => {
      for (const item of some.appended) appended(item)
      elect(some.freed)
      return some.count
    }
    let count = 0
    if (state === 'dead') {
      for (;;) {
        const some = tell(await store.revive(db, subscription.queueId, span, replayStep))
        count += some
        if (some < replayStep) return count
      }
    }
    if (!('topic' in subscription.source))
      throw invalid('/state', 'a queue keeps no past messages: only dead ones can be replayed')
    for await (const ids of pastMessages(db, subscription, span))
      count += tell(await store.republish(db, subscription.queueId, ids))
    return count
  }

  return {
    async createSubscription(source, settings, secret) {
      const id = `sub_${randomBytes(10).toString('hex')}`
      const backlogTtlMs = defaultSettings.ttlMs
      const made = await store.insertSubscription(
        db,
        { id, source, settings, secret, backlogTtlMs },
        topicLimits.interests,
      )
      if (!made) throw await missingSource(db, source)
      changed(made.number)
      free()
      return await one(made)
    },
    getSubscription: async (id) => one(await stored(id)),
    async listSubscriptions({ limit, cursor, queue, topic, may }) {
      const shown: StoredSubscription[] = []
      let after = wholeCursor(cursor, 0)
      for (;;) {
        const some = await store.listSubscriptions(db, { queue, topic }, after, limit + 1)
        for (const each of some) {
          if (!may(each)) continue
          if (shown.length === limit)
            return { data: await withCounts(shown), nextCursor: encodeCursor({ after: shown.at(-1)?.number }) }
          shown.push(each)
        }
        after = some.at(-1)?.number ?? after
        if (some.length <= limit) return { data: await withCounts(shown), nextCursor: null }
      }
    },
    async updateSubscription(id, { pattern, filter, ...changes }) {
      const present = await stored(id)
      const { source } = present
      const onTopic = 'topic' in source ? source : null
      if (!onTopic && (pattern !== undefined || filter !== undefined))
        throw invalid(pattern === undefined ? '/filter' : '/pattern', 'only a subscription on a topic has one')
      const interest = onTopic && {
        pattern: pattern ?? onTopic.pattern,
        filter: filter === undefined ? onTopic.filter : filter,
      }
      if (!(await store.updateSubscription(db, id, { ...present, ...changes }, interest, present.version)))
        throw new BrokerError('changed_meanwhile', `The subscription ${id} was changed meanwhile: read it again.`)
      changed(present.number)
      return await one(await stored(id))
    },
    async deleteSubscription(id) {
      const gone = await store.deleteSubscription(db, id)
      if (!gone) throw noSubscription(id)
      changed(gone.number)
      if (gone.backlog) queueDeleted(gone.queueId)
    },
    enableSubscription: (id) => setDisabled(id, null),
    disableSubscription: (id) => setDisabled(id, 'requested'),
    async rotateSecret(id, secret, graceMs) {
      if (!(await store.rotateSecret(db, id, secret, graceMs))) throw noSubscription(id)
      const { number } = await stored(id)
      changed(number)
      return await store.secretsOf(db, number)
    },
    secretsOf: async (id) => store.secretsOf(db, (await stored(id)).number),
    replay,
    async listAttempts(id, { outcome, limit, cursor }) {
      const { number } = await stored(id)
      const before = wholeCursor(cursor, Number.MAX_SAFE_INTEGER)
      const rows = await store.listAttempts(db, number, outcome && outcome === 'succeeded', before, limit + 1)
      return cutPage(rows, limit, attemptFrom, (last) => ({ after: last.id }))
    },
  }
}

export const noSubscription = (id: string): BrokerError =>
  new BrokerError('subscription_not_found', `There is no subscription ${id}.`)

async function missingSource(db: Database, source: { queue: string } | { topic: string }): Promise<BrokerError> {
  if ('queue' in source) return invalid('/queue', `there is no queue ${source.queue}: create it first`)
  if (!(await store.findTopic(db, source.topic))) return invalid('/topic', `${noTopic(source.topic).message}`)
  return invalid('', `a topic has at most ${topicLimits.interests} bindings and subscriptions`)
}

/** Ids of what the topic has kept and the subscription wants now, some at a time. */
async function* pastMessages(
  db: Database,
  { source }: StoredSubscription,
  span: { fromMs: number; toMs: number },
): AsyncGenerator<number[]> {
  if (!('topic' in source)) return
  const topic = await store.findTopic(db, source.topic)
  if (!topic) return
  const filter = source.filter && compileFilter(source.filter)
  const wanted = (row: LoggedRow): boolean =>
    keyMatches(source.pattern, row.routing_key) &&
    (!filter ||
      filter.matches({ headers: row.headers ?? {}, body: filter.usesBody ? parsedJson(row.body) : undefined }))
  let after = { at: -1, id: 0 }
  for (;;) {
    const rows = await store.readTopicLog(db, topic.id, span, after, replayStep, messageLimits.answerBytes)
    const last = rows.at(-1)
    if (!last) return
    after = { at: last.at, id: last.id }
    const ids = rows.filter(wanted).map((row) => row.id)
    if (ids.length > 0) yield ids
  }
}

export const attemptId = (number: number): string => `att_${number.toString(36).padStart(9, '0')}`

const attemptFrom = (row: AttemptRow): Attempt => ({
  id: attemptId(row.id),
  // A test has no message that a column could name: its id is what the endpoint was told.
  messageId: row.message_id === 0 ? (row.request_headers['webhook-id'] ?? testMessageId) : messageId(row.message_id),
  attempt: row.attempt,
  at: row.at,
  outcome: row.succeeded ? 'succeeded' : 'failed',
  status: row.status,
  durationMs: row.duration_ms,
  requestHeaders: row.request_headers,
  responseHeaders: row.response_headers,
  responseBody: row.response_body,
  error: row.error,
  nextAttemptAt: row.next_attempt_at,
})
