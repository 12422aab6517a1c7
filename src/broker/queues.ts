/**
 * The queues this gateway has lately had to do with, so that a name is not looked up for each message. What is decided by a
 * setting is decided in the statement, from the row; this only says which statement to use.
 */
import { batch, monotonicMs } from '../base/index.ts'
import { BrokerError, type Queue } from '../model/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'
import { gathering } from './gathering.ts'

export type Queues = {
  /** Throws queue_not_found. */
  byName(name: string): Promise<Queue>
  byId(id: number): Promise<Queue | null>
  /** From the database, whatever is remembered. */
  fresh(name: string): Promise<Queue>
  /** The same, or null when there is none. */
  find(name: string): Promise<Queue | null>
  /** What is remembered, if anything. */
  known(id: number): Queue | null
  remember(queue: Queue): void
  forget(id: number): void
  clear(): void
}

const rememberMs = 30_000
const rememberUnheardMs = 1_000

type Entry = { queue: Queue; atMs: number }

/** `hears`: whether changes made through other gateways are announced; without it nothing is remembered for long. */
export function createQueues(db: Database, hears: () => boolean): Queues {
  const names = new Map<string, Entry>()
  const ids = new Map<number, Entry>()
  const options = {
    lanes: 1,
    maxWeight: 500,
    weigh: () => 1,
    maxWaiting: 100_000,
    ...gathering('Too many calls wait for their queue to be looked up.'),
  }
  const fetchByName = batch<string, Queue | null>(async (wanted) => {
    const found = new Map((await store.queuesByName(db, [...new Set(wanted)])).map((queue) => [queue.name, queue]))
    return wanted.map((name) => found.get(name) ?? null)
  }, options)
  const fetchById = batch<number, Queue | null>(async (wanted) => {
    const found = new Map((await store.queuesById(db, [...new Set(wanted)])).map((queue) => [queue.id, queue]))
    return wanted.map((id) => found.get(id) ?? null)
  }, options)

  const current = (entry: Entry | undefined): Queue | null =>
    entry && monotonicMs() - entry.atMs < (hears() ? rememberMs : rememberUnheardMs) ? entry.queue : null

  function remember(queue: Queue): void {
    const entry = { queue, atMs: monotonicMs() }
    names.set(queue.name, entry)
    ids.set(queue.id, entry)
  }

  function forget(id: number): void {
    const entry = ids.get(id)
    ids.delete(id)
    if (entry && names.get(entry.queue.name)?.queue.id === id) names.delete(entry.queue.name)
  }

  async function find(name: string): Promise<Queue | null> {
    const queue = await fetchByName(name)
    const old = names.get(name)
    if (queue) remember(queue)
    else if (old) forget(old.queue.id)
    return queue
  }

  async function fresh(name: string): Promise<Queue> {
    const queue = await find(name)
    if (!queue)
      throw new BrokerError('queue_not_found', `There is no queue ${name}: create it with PUT /v1/queues/${name}.`)
    return queue
  }

  return {
    byName: async (name) => current(names.get(name)) ?? (await fresh(name)),
    async byId(id) {
      const known = current(ids.get(id))
      if (known) return known
      const queue = await fetchById(id)
      if (queue) remember(queue)
      else forget(id)
      return queue
    },
    fresh,
    find,
    known: (id) => current(ids.get(id)),
    remember,
    forget,
    clear() {
      names.clear()
      ids.clear()
    },
  }
}
