/** Messages that nobody holds, changed or deleted by people; and dead letters that are sent on their way again. */
import { randomBytes } from 'node:crypto'
import {
  BrokerError,
  compileLetterFilter,
  invalid,
  type LetterFilter,
  type MessageChanges,
  messageLimits,
  parseMessageId,
  type Queue,
  type RedriveRequest,
  type StoredMessage,
  type Task,
} from '../model/index.ts'
import type { Appended, Database, FreedKey, LetterTable } from '../store/index.ts'
import * as store from '../store/index.ts'
import { looks, noMessage, storedFrom } from './admin.ts'
import { cutPage, readAtOnce, wholeCursor } from './cursor.ts'
import type { Queues } from './queues.ts'
import type { LetterAdmin } from './types.ts'

type Options = {
  db: Database
  queues: Queues
  appended(item: Appended): void
  scheduled(inMs: number): void
  elect(keys: readonly FreedKey[]): void
  queueChanged(queueId: number): void
  /** There is a new task. */
  tasked(): void
}

const lettersAtOnce = 500

/** Messages move from `waiting` to `messages`, not back. */
const tablesOf: Record<'dead' | 'ready' | 'delayed', readonly LetterTable[]> = {
  dead: ['dead'],
  ready: ['waiting', 'messages'],
  delayed: ['scheduled'],
}

export function createLetterAdmin(options: Options): LetterAdmin {
  const { db, queues, appended, scheduled, elect, queueChanged, tasked } = options

  async function redrive(name: string, request: RedriveRequest, may: (queue: string) => boolean): Promise<Task> {
    const queue = await queues.fresh(name)
    const { to } = request
    const target = to === null ? null : await queues.find(to)
    if (to !== null && !target) throw invalid('/to', `there is no queue ${to}: create it first`)
    if (target?.backlog && target.id !== queue.id)
      throw invalid('/to', `${to} is the backlog of a subscription, which only its topic sends to`)
    const origins = await store.deadLetterOrigins(db, queue.id)
    await checkRest(queue, target, origins)
    const refused = target ? undefined : origins.find((origin) => !may(origin.name))
    if (refused)
      throw new BrokerError(
        'forbidden',
        `This API key has no scope to send on queue ${refused.name}, to which dead letters would return: give to.`,
      )
    const task = await store.insertTask(db, {
      ...request,
      name: `task_${randomBytes(10).toString('hex')}`,
      queue,
      target,
      originIds: origins.length === 0 ? null : target ? [] : origins.map((origin) => origin.id),
    })
    tasked()
    return task
  }

  /** Letters must come to rest somewhere: not where they lie, and not on a way of dead-letter queues that leads around. */
  async function checkRest(queue: Queue, target: Queue | null, origins: readonly { id: number }[]): Promise<void> {
    if (target?.id === queue.id && origins.length > 0)
      throw invalid(
        '/to',
        `the dead letters lie in ${queue.name} already: leave it out, and each returns to its origin`,
      )
    const targets = target ? [target.id] : [queue.id, ...origins.map((origin) => origin.id)]
    const around = await store.deadLetterLoop(db, targets)
    if (around === null) return
    throw invalid(
      '/to',
      `the dead letters of ${around} come back to it by way of dead-letter queues: they would never rest`,
    )
  }

  /** Throws queue_full when the new body does not fit into the queue. */
  async function changed(queue: Queue, position: number, changes: MessageChanges): Promise<store.Changed> {
    const { body } = changes
    if (body === undefined || queue.maxBytes === null) return await store.changeMessage(db, queue.id, position, changes)
    return await db.together(async (inside) => {
      if (!(await store.roomForBody(inside, queue.id, position, body.length)))
        throw new BrokerError('queue_full', `The queue ${queue.name} has no room for this body.`, { retryAfterS: 1 })
      return await store.changeMessage(inside, queue.id, position, changes)
    })
  }

  async function changeMessage(name: string, id: string, changes: MessageChanges): Promise<StoredMessage> {
    const queue = await queues.fresh(name)
    const position = parseMessageId(id)
    if (position === null) throw noMessage(id)
    for (let look = 0; look < looks; look++) {
      const { outcome, message, appended: item, dueInMs } = await changed(queue, position, changes)
      if (outcome === 'leased')
        throw new BrokerError(
          'message_leased',
          `The message ${id} is leased: it can be changed when its lease is over.`,
        )
      if (outcome === 'dead')
        throw invalid(
          changes.delayMs === undefined ? '/deliver_at' : '/delay',
          'a dead letter is due at no time: redrive it',
        )
      if (outcome === 'changed') {
        if (item) appended(item)
        if (dueInMs !== null) scheduled(dueInMs)
        return storedFrom(message)
      }
      if (!(await store.findMessage(db, queue.id, position))) break
    }
    throw noMessage(id)
  }

  async function deleteMessages(
    name: string,
    state: 'dead' | 'ready' | 'delayed',
    { filter, limit, signal }: { filter: LetterFilter; limit: number | null; signal: AbortSignal },
  ): Promise<number> {
    const queue = await queues.fresh(name)
    // A message that moves up, or comes back, while this goes on has another position, but the same id.
    const upTo = { id: await store.lastPosition(db) }
    const { usesBody, matches } = compileLetterFilter(filter)
    const page = { limit: lettersAtOnce, maxBytes: messageLimits.answerBytes, withBody: usesBody }
    let left = limit ?? Number.POSITIVE_INFINITY
    let deleted = 0
    for (const table of tablesOf[state]) {
      let at = store.browseStart
      while (left > 0 && !signal.aborted) {
        const rows = await store.readLetters(db, table, queue.id, at, upTo, page)
        const wanted = rows.filter(({ headers, died_ms: diedMs, ...row }) =>
          matches({ ...row, headers: headers ?? {}, diedMs }),
        )
        const chosen = wanted.slice(0, left)
        const end = chosen.length < wanted.length ? chosen.at(-1) : rows.at(-1)
        if (!end) break
        at = { first: end.first, second: end.second }
        if (chosen.length === 0) continue
        const { count, freedKeys } = await store.removeLetters(db, table, queue.id, chosen)
        elect(freedKeys.map((key) => ({ queueId: queue.id, key, after: 0 })))
        deleted += count
        left -= count
      }
    }
    if (deleted > 0) queueChanged(queue.id)
    return deleted
  }

  return {
    redrive,
    async getTask(id) {
      const task = await store.findTask(db, id)
      if (!task) throw new BrokerError('task_not_found', `There is no task ${id}.`)
      return task
    },
    async listTasks({ limit, cursor, queue, may }) {
      const shown: { number: number; task: Task }[] = []
      const count = readAtOnce(limit)
      for (let before = wholeCursor(cursor, Number.MAX_SAFE_INTEGER); ; ) {
        const some = await store.listTasks(db, queue, before, count)
        shown.push(...some.filter(({ task }) => may(task)))
        before = some.at(-1)?.number ?? before
        if (shown.length > limit || some.length < count) break
      }
      return cutPage(
        shown,
        limit,
        ({ task }) => task,
        (last) => ({ after: last.number }),
      )
    },
    cancelTask: (id) => store.cancelTask(db, id),
    changeMessage,
    deleteMessages,
  }
}
