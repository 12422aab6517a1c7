/**
 * Keyed queues: when the message of a key that was under way is done, the next one moves up. Whoever adds to a key or finishes its
 * first message asks for it here; what is lost with a gateway is found by a walk over the keys that have waiting messages.
 */
import { LRUCache } from 'lru-cache'
import { batch } from '../base/index.ts'
import type { Appended, Database, FreedKey } from '../store/index.ts'
import * as store from '../store/index.ts'
import { gathering } from './gathering.ts'

export type Elector = {
  /** Messages of these keys were stored, or what was under way is done. Does not wait for it. */
  elect(keys: readonly FreedKey[]): void
  /** The place up to which a key is known to be done; 0: nothing is known. */
  doneUpTo(queueId: number, key: string): number
  /** It was seen that the key is done up to there. */
  learnt(key: FreedKey): void
}

type Options = {
  db: Database
  appended(item: Appended): void
  scheduled(inMs: number): void
  log(event: string, fields?: Record<string, unknown>): void
}

/** Places up to which keys are known to be done: places only grow, so what is kept here is never wrong, only old. */
const mostKnown = 100_000

export function createElector({ db, appended, scheduled, log }: Options): Elector {
  const done = new LRUCache<string, number>({ max: mostKnown })

  const doneUpTo = (queueId: number, key: string): number => done.get(`${queueId} ${key}`) ?? 0

  function learnt({ queueId, key, after }: FreedKey): void {
    if (after > doneUpTo(queueId, key)) done.set(`${queueId} ${key}`, after)
  }

  const run = batch<FreedKey, null>(
    async (keys) => {
      const known = keys.map((each) => {
        if (each.after < 0) return { ...each, after: 0 }
        learnt(each)
        return { ...each, after: doneUpTo(each.queueId, each.key) }
      })
      const { appended: items, dueInMs } = await store.elect(db, known)
      for (const item of items) appended(item)
      for (const ms of dueInMs) scheduled(ms)
      return keys.map(() => null)
    },
    {
      lanes: 2,
      maxWeight: 1000,
      weigh: () => 1,
      maxWaiting: 100_000,
      ...gathering('Too many keys wait for their next message.'),
    },
  )

  return {
    doneUpTo,
    learnt,
    elect(keys) {
      // The walk finds what could not be moved up now.
      for (const key of keys) run(key).catch((error: unknown) => log('moving up a key failed', { error }))
    },
  }
}
