/** What happens without a caller: due messages become ready, leases that ran out end, lives end, deleted queues are swept. */
import { type Loop, loop, monotonicMs } from '../base/index.ts'
import { messageStates } from '../model/index.ts'
import type { Appended, Cursor, Database, FreedKey, LogCursor, MovedRow } from '../store/index.ts'
import * as store from '../store/index.ts'
import { beginning } from './marks.ts'

/** A look back this far finds whatever committed late; a look back to the beginning follows now and then. */
const lookBackS = 5
const fullLookEveryMs = 30_000
const beginningOfTimeS = 1e9
const promoteAtOnce = 1000
const leasesAtOnce = 20
const restMs = 500
/** While vacuum is held back a walk passes over every dead row, and may fail at its deadline: it may take a twentieth of a core, not more. */
const restTimes = 20
const walkStep = 5000
const trimStep = 2000
const keysAtOnce = 500
const subscriptionsAtOnce = 200
/** Of each subscription the newest attempts are kept, so many and so long. */
const attemptsKept = 10_000
const attemptsKeptMs = 7 * 86_400_000
const start: Cursor = { queueId: 0, lane: 0, position: beginning }

export type Upkeep = {
  /** Something becomes due in so many milliseconds. */
  dueIn(ms: number): void
  stop(): Promise<void>
}

type Options = {
  db: Database
  appended(item: Appended): void
  moved(rows: readonly MovedRow[]): void
  /** These were leased until now. */
  leasesExpired(rows: readonly MovedRow[]): void
  elect(keys: readonly FreedKey[]): void
  log(event: string, fields?: Record<string, unknown>): void
}

export function startUpkeep({ db, appended, moved, leasesExpired, elect, log }: Options): Upkeep {
  const failed = (name: string) => (error: unknown) => log(`${name} failed`, { error })

  /** Alternates short looks with a full one every half minute. */
  function lookBack(): () => number {
    let fullAtMs = Number.NEGATIVE_INFINITY
    return () => {
      if (monotonicMs() - fullAtMs < fullLookEveryMs) return lookBackS
      fullAtMs = monotonicMs()
      return beginningOfTimeS
    }
  }
  const rest = (nextMs: number | null): number => Math.min(restMs, Math.max(1, Math.ceil(nextMs ?? restMs)))

  const promoteFrom = lookBack()
  let more = false
  const promoting = loop(
    async () => {
      const {
        appended: items,
        count,
        nextDueMs,
      } = await store.promote(db, more ? beginningOfTimeS : promoteFrom(), promoteAtOnce)
      for (const item of items) appended(item)
      more = count === promoteAtOnce
      return more ? 0 : rest(nextDueMs)
    },
    { retryMs: restMs, failed: failed('promote') },
  )

  const expireFrom = lookBack()
  let moreLeases = false
  const expiring = loop(
    async () => {
      const {
        moved: rows,
        leases,
        nextDueMs,
      } = await store.expire(db, moreLeases ? beginningOfTimeS : expireFrom(), leasesAtOnce)
      moved(rows)
      leasesExpired(rows)
      // Leases that could not be ended would come again at once.
      moreLeases = leases === leasesAtOnce
      return moreLeases ? 1 : rest(nextDueMs)
    },
    { retryMs: restMs, failed: failed('expire') },
  )

  let cursor = start
  const walking = loop(
    async () => {
      const { moved: rows, next } = await store.retire(db, cursor, walkStep)
      moved(rows)
      cursor = next ?? start
      return next ? 100 : 1000
    },
    { retryMs: 1000, failed: failed('retire'), restTimes },
  )

  const cleaning = loop(
    async () => {
      while ((await store.forget(db, 5000)) >= 5000);
      await store.forgetTasks(db, 1000)
      const gone = await store.orphans(db)
      if (gone.length === 0) return 10_000
      const deleted = await store.sweep(db, gone, messageStates, Number.MAX_SAFE_INTEGER, 10_000)
      return deleted > 0 ? 50 : 10_000
    },
    { retryMs: 5000, failed: failed('clean up'), restTimes },
  )

  /** Whose next message was not moved up: the gateway that should have has died, or a message was deleted. */
  let walked = { queueId: 0, key: '' }
  const electFrom = lookBack()
  let anew = true
  const electing = loop(
    async () => {
      const keys = await store.waitingKeys(db, walked, keysAtOnce)
      walked = keys.length === keysAtOnce ? (keys.at(-1) ?? walked) : { queueId: 0, key: '' }
      // Now and then without what is believed to be done.
      elect(keys.map((each) => ({ ...each, after: anew ? -1 : 0 })))
      if (keys.length < keysAtOnce) anew = electFrom() === beginningOfTimeS
      return keys.length === keysAtOnce ? 100 : 1000
    },
    { retryMs: 1000, failed: failed('elect'), restTimes },
  )

  let trimmed: LogCursor = { at: -1, id: 0 }
  const trimming = loop(
    async () => {
      const next = await store.trimTopicLog(db, trimmed, trimStep)
      trimmed = next ?? { at: -1, id: 0 }
      return next ? 100 : 5_000
    },
    { retryMs: 5_000, failed: failed('trim topic log'), restTimes: 5 },
  )

  let subscription = 0
  const forgetting = loop(
    async () => {
      if ((await store.trimAttempts(db, attemptsKeptMs, trimStep)) === trimStep) return 100
      const next = await store.trimAttemptsOf(db, subscription, subscriptionsAtOnce, attemptsKept, trimStep)
      subscription = next ?? 0
      return next === null ? 10_000 : 100
    },
    { retryMs: 10_000, failed: failed('trim attempts') },
  )

  const loops: Loop[] = [promoting, expiring, walking, cleaning, trimming, forgetting, electing]
  return {
    dueIn: (ms) => {
      if (ms < restMs) promoting.nudge(Math.max(1, Math.ceil(ms)))
    },
    stop: async () => void (await Promise.all(loops.map((each) => each.stop()))),
  }
}
