/** Everything that is neither sending, receiving nor settling: queues, browsing, keys. */
import { LRUCache } from 'lru-cache'
import { monotonicMs } from '../base/index.ts'
import {
  BrokerError,
  defaultSettings,
  defaultTargetAgeMs,
  desiredConsumers,
  drainSeconds,
  invalid,
  messageId,
  messageLimits,
  parseMessageId,
  priorityOf,
  type Queue,
  type QueueKey,
  type QueueSettings,
  type StoredMessage,
  serviceSeconds,
} from '../model/index.ts'
import type { Counted, Database, FreedKey, KeyRow, Rate, StoredRow } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Access } from './access.ts'
import { cutPage, decodeCursor, encodeCursor, pageByName, textCursor } from './cursor.ts'
import type { Queues } from './queues.ts'
import type { Admin, LetterAdmin, QueueWithCounts, ScheduleAdmin, SubscriptionAdmin, TopicAdmin } from './types.ts'

type Options = {
  db: Database
  queues: Queues
  access: Access
  counted: Counter
  elect(keys: readonly FreedKey[]): void
  /** Sent, settled and worked on here and not yet recorded. */
  unrecorded(queueId: number): Omit<Rate, 'queueId'>
  queueChanged(queueId: number): void
  queueDeleted(queueId: number): void
  keysChanged(): void
}

/** A message on its way from one table to another is looked for once more. */
export const looks = 5

type QueueAdmin = Omit<
  Admin,
  keyof TopicAdmin | keyof SubscriptionAdmin | keyof ScheduleAdmin | keyof LetterAdmin | 'explainMessage' | 'diagnosis'
>

export function createAdmin({
  db,
  queues,
  access,
  counted,
  elect,
  unrecorded,
  queueChanged,
  queueDeleted,
  keysChanged,
}: Options): QueueAdmin {
  async function withCounts(list: readonly Queue[]): Promise<QueueWithCounts[]> {
    const counts = await counted(list.map((queue) => queue.id))
    return list.map((queue) => {
      const { ready = 0, delayed = 0, leased = 0, dead = 0 } = counts.get(queue.id) ?? {}
      return { ...queue, counts: { ready, delayed, leased, dead } }
    })
  }

  async function one(queue: Queue): Promise<QueueWithCounts> {
    const [found] = await withCounts([queue])
    return found as QueueWithCounts
  }

  async function putQueue(
    name: string,
    given: Partial<QueueSettings>,
  ): Promise<{ queue: QueueWithCounts; created: boolean }> {
    const present = await queues.find(name)
    if (present?.backlog) throw isBacklog(name)
    if (given.fair && (present?.order ?? given.order ?? 'fifo') !== 'fifo')
      throw invalid('/fair', 'only a fifo queue can be fair: keyed ones already share, lifo ones cannot')
    const target = given.deadLetterQueue ?? null
    if (target === name) throw invalid('/dead_letter_queue', 'a queue cannot be its own dead-letter queue')
    const put = await store.putQueue(
      db,
      name,
      { ...defaultSettings, ...given },
      Object.keys(given) as (keyof QueueSettings)[],
    )
    if (!put) {
      if (target !== null && (await store.queuesByName(db, [target])).length === 0) {
        throw invalid('/dead_letter_queue', `there is no queue ${target}: create it first`)
      }
      throw new BrokerError('setting_is_fixed', 'The order of a queue is fixed when it is created.', {
        errors: [{ pointer: '/order', detail: 'fixed when the queue is created' }],
      })
    }
    queues.remember(put.queue)
    queueChanged(put.queue.id)
    return { queue: await one(put.queue), created: put.created }
  }

  async function listQueues({ limit, cursor, may }: Parameters<Admin['listQueues']>[0]) {
    const page = await pageByName((after, count) => store.listQueues(db, after, count), { limit, cursor }, may)
    return { ...page, data: await withCounts(page.data) }
  }

  async function browseMessages(
    name: string,
    state: StoredMessage['state'],
    { limit, cursor }: { limit: number; cursor: string | null },
  ) {
    const queue = await queues.fresh(name)
    const from = browseFrom(cursor, state)
    const rows = await store.browse(db, queue.id, state, from, limit + 1, messageLimits.answerBytes)
    const page = rows.slice(0, limit)
    // A page may also be short because of its bodies: only an empty next one is the end.
    const last = page.at(-1)
    const whole =
      rows.length <= limit &&
      page.reduce((sum, row) => sum + (row.body?.length ?? 0), 0) < messageLimits.answerBytes / 2
    return {
      data: page.map(storedFrom),
      nextCursor: last && !whole ? encodeCursor({ first: last.first, second: last.second }) : null,
    }
  }

  return {
    putQueue,
    getQueue: async (name) => one(await queues.fresh(name)),
    listQueues,
    async deleteQueue(name, force) {
      if ((await queues.find(name))?.backlog) throw isBacklog(name)
      const gone = await store.deleteQueue(db, name, force)
      if (!gone) throw new BrokerError('queue_not_found', `There is no queue ${name}.`)
      if (!gone.deleted) throw notEmpty(name, gone.holds)
      queueDeleted(gone.id)
    },
    async purgeQueue(name, states) {
      const queue = await queues.fresh(name)
      const upTo = await store.lastPosition(db)
      let purged = 0
      for (;;) {
        const some = await store.sweep(db, [queue.id], states, upTo, 10_000)
        purged += some
        if (some === 0) break
      }
      queueChanged(queue.id)
      return purged
    },
    async queueStats(name, targetAgeMs = defaultTargetAgeMs) {
      const queue = await queues.fresh(name)
      const [counts, recorded] = await Promise.all([counted([queue.id]), store.ratesOf(db, queue.id)])
      const { ready = 0, delayed = 0, leased = 0, dead = 0, oldestReadyAgeS = 0 } = counts.get(queue.id) ?? {}
      const here = unrecorded(queue.id)
      const inRate = (recorded.sent + here.sent) / 60
      const outRate = (recorded.settled + here.settled) / 60
      const work = {
        receives: recorded.receives + here.receives,
        received: recorded.received + here.received,
        busyMs: recorded.busyMs + here.busyMs,
      }
      return {
        ready,
        delayed,
        leased,
        dead,
        oldestReadyAgeS,
        inRate,
        outRate,
        drainS: drainSeconds(ready, inRate, outRate),
        serviceS: serviceSeconds(work),
        desiredConsumers: desiredConsumers({ ready, leased, inRate }, work, { ...queue, targetAgeMs }),
      }
    },
    browseMessages,
    async getMessage(name, id) {
      const queue = await queues.fresh(name)
      const position = parseMessageId(id)
      const row = position === null ? null : await store.findMessage(db, queue.id, position)
      if (!row) throw noMessage(id)
      return storedFrom(row)
    },
    async deleteMessage(name, id) {
      const queue = await queues.fresh(name)
      const position = parseMessageId(id)
      if (position === null) throw noMessage(id)
      for (let look = 0; look < looks; look++) {
        const { removed, freedKey } = await store.removeMessage(db, queue.id, position)
        if (!removed && (await store.findMessage(db, queue.id, position))) continue
        if (!removed) break
        if (freedKey !== null) elect([{ queueId: queue.id, key: freedKey, after: 0 }])
        return queueChanged(queue.id)
      }
      throw noMessage(id)
    },
    async browseKeys(name, blocked, { limit, cursor }) {
      const queue = await queues.fresh(name)
      const rows = await store.listQueueKeys(db, queue.id, blocked, textCursor(cursor), limit + 1)
      return cutPage(rows, limit, keyFrom, (last) => ({ after: last.key }))
    },
    async unblockKey(name, key, action) {
      const queue = await queues.fresh(name)
      const outcome = await store.unblock(db, queue.id, key, action === 'retry')
      if (outcome === 'not blocked') throw new BrokerError('key_not_blocked', `The key ${key} is not blocked.`)
      if (outcome === 'gone')
        throw new BrokerError('message_not_found', 'The dead letter is not in this queue any more: drop it instead.')
      elect([{ queueId: queue.id, key, after: 0 }])
    },
    createKey: access.create,
    async listKeys({ limit, cursor }) {
      const from = decodeCursor(cursor, { at: 0, id: '' })
      const createdAt = new Date(Math.min(Math.max(0, from.at), 1e14))
      const keys = await store.listKeys(db, { createdAt, id: from.id }, limit + 1)
      return cutPage(
        keys,
        limit,
        (key) => key,
        (last) => ({ at: last.createdAt.getTime(), id: last.id }),
      )
    },
    async deleteKey(id) {
      if (!(await store.deleteKey(db, id))) throw new BrokerError('key_not_found', `There is no key ${id}.`)
      access.forget()
      keysChanged()
    },
  }
}

export const noMessage = (id: string): BrokerError =>
  new BrokerError('message_not_found', `There is no message ${id} in this queue.`)

/** A made-up cursor must not leave the range of the columns it is compared with. */
function browseFrom(cursor: string | null, state: StoredMessage['state']): { first: number; second: number } {
  const { first, second } = decodeCursor(cursor, store.browseStart)
  const most = state === 'delayed' ? 1e11 : state === 'dead' ? Number.MAX_SAFE_INTEGER : 32_767
  const within = Math.max(-1, Math.min(most, first))
  return { first: state === 'delayed' ? within : Math.trunc(within), second: Math.trunc(second) }
}

function notEmpty(name: string, { messages, letters }: store.QueueContent): BrokerError {
  const held = [...(messages ? ['messages'] : []), ...(letters ? ['dead letters'] : [])].join(' and ')
  // What purge takes unless told otherwise leaves the dead letters.
  const states = letters ? `?state=${messages ? 'ready,delayed,leased,' : ''}dead` : ''
  const purge = `POST /v1/queues/${name}/purge${states}`
  return new BrokerError(
    'queue_not_empty',
    `The queue ${name} still holds ${held}: delete it with ?force=true, or purge it first with ${purge}.`,
  )
}

const isBacklog = (name: string): BrokerError =>
  new BrokerError('setting_is_fixed', `${name} is the backlog of a subscription: change the subscription instead.`)

export type Counter = {
  (queueIds: readonly number[]): Promise<Map<number, Counted>>
  /** What is kept is not true any more. */
  forget(queueId: number): void
}

/** Cheaper counts are always made anew. */
const cheapMs = 100
const mostCosts = 10_000

/**
 * What a count cost is what it is worth: twenty times as long, when it cost anything twice running. (Once is no more than a machine that
 * was busy for a moment, and whoever looks after sending wants to see what was sent.)
 */
export function countCache(db: Database): Counter {
  const kept = new Map<number, { counted: Counted; untilMs: number }>()
  const costs = new LRUCache<number, number>({ max: mostCosts })
  const count = async (ids: readonly number[]): Promise<Map<number, Counted>> => {
    const nowMs = monotonicMs()
    for (const [id, { untilMs }] of kept) if (untilMs < nowMs) kept.delete(id)
    const missing = ids.filter((id) => !kept.has(id))
    const fresh = missing.length > 0 ? await store.countMessages(db, missing) : []
    const costMs = (monotonicMs() - nowMs) / Math.max(1, missing.length)
    for (const counted of fresh) {
      const surelyMs = Math.min(costMs, costs.get(counted.id) ?? 0)
      costs.set(counted.id, costMs)
      if (surelyMs > cheapMs) kept.set(counted.id, { counted, untilMs: monotonicMs() + 20 * surelyMs })
    }
    const found = new Map(fresh.map((counted) => [counted.id, counted]))
    for (const id of ids) {
      const old = kept.get(id)
      if (old && !found.has(id)) found.set(id, old.counted)
    }
    return found
  }
  return Object.assign(count, { forget: (queueId: number) => void kept.delete(queueId) })
}

const keyFrom = (row: KeyRow): QueueKey => ({
  key: row.key,
  waiting: row.waiting,
  blocked:
    row.blocked_at === null || row.message_id === null || row.reason === null
      ? null
      : {
          since: row.blocked_at,
          messageId: messageId(row.message_id),
          reason: row.reason,
          lastError: row.last_error,
        },
})

export function storedFrom(row: StoredRow): StoredMessage {
  return {
    id: messageId(row.id),
    state: row.state,
    body: row.body ?? Buffer.alloc(0),
    contentType: row.content_type,
    headers: row.headers ?? {},
    key: row.key,
    priority: priorityOf(row.lane),
    attempts: row.attempts,
    enqueuedAt: row.enqueued_at,
    expiresAt: row.state === 'dead' ? null : row.expires_at,
    availableAt: row.due_at,
    leaseExpiresAt: row.leased_until,
    dead:
      row.reason === null || row.died_at === null
        ? null
        : { reason: row.reason, lastError: row.last_error, diedAt: row.died_at, origin: row.origin ?? '' },
  }
}
