/**
 * Tasks in the background: each is held by one gateway at a time, which says every second that it is still there; what nobody holds any
 * more another gateway takes, and goes on where the last step that committed ended.
 */
import { type Loop, loop, monotonicMs, type Pace, pace, turns } from '../base/index.ts'
import { BrokerError, compileLetterFilter, deathHeader, messageLimits } from '../model/index.ts'
import type { Appended, Database, FreedKey, HeldTask, LetterRow, MovingLetter } from '../store/index.ts'
import * as store from '../store/index.ts'

/** A step takes far less; then a gateway that stopped answering has lost its tasks. */
const aliveMs = 5_000
const claimEveryMs = 1_000
/** Held at the same time, so that those that wait (for their rate, or for room in a queue) are in nobody's way; */
const tasksAtOnce = 100
/** and so many of them at work. */
const stepsAtOnce = 4
const lettersAtOnce = 500
/** So much of a rate is done together. */
const burstMs = 100
/** Letters are read so much ahead of a rate, for those that do not match. */
const readAhead = 20
const fullRestMs = 1_000
const retryMs = 1_000

export type Tasks = {
  /** There may be a new one. */
  nudge(): void
  /** Finishes the steps under way and gives the tasks back. */
  stop(): Promise<void>
}

type Options = {
  db: Database
  gateway: string
  appended(item: Appended): void
  /** Letters arrived in a queue. */
  sent(queueId: number, count: number): void
  elect(keys: readonly FreedKey[]): void
  log(event: string, fields?: Record<string, unknown>): void
}

export function startTasks(options: Options): Tasks {
  const { db, gateway, log } = options
  const running = new Map<number, Loop>()
  const inTurn = turns(stepsAtOnce)
  let stopped = false

  const claiming = loop(
    async () => {
      const room = tasksAtOnce - running.size
      if (room > 0) for (const id of await store.claimTasks(db, gateway, aliveMs, room)) begin(id)
      return claimEveryMs
    },
    { retryMs: claimEveryMs, failed: (error) => log('claiming tasks failed', { error }) },
  )

  function begin(id: number): void {
    if (stopped || running.has(id)) return
    const step = redriving(options, id)
    const one: Loop = loop(
      async () => {
        const restMs = await inTurn(step)
        if (restMs !== null) return restMs
        running.delete(id)
        void one.stop()
        claiming.nudge()
        return 0
      },
      { retryMs, failed: (error) => log('a task waits', { task: id, error }) },
    )
    running.set(id, one)
  }

  return {
    nudge: () => claiming.nudge(),
    async stop() {
      stopped = true
      await claiming.stop()
      await Promise.all([...running.values()].map((each) => each.stop()))
      // Otherwise others wait until its time is over.
      await store.releaseTasks(db, gateway).catch((error: unknown) => log('releasing tasks failed', { error }))
    },
  }
}

/** A step of one task; answers how long to rest, or null when there is nothing more to do here. */
function redriving({ db, gateway, appended, sent, elect, log }: Options, id: number): () => Promise<number | null> {
  let paced: Pace | undefined

  async function finish(state: 'done' | 'failed', error: string | null): Promise<null> {
    await store.finishTask(db, gateway, id, state, error)
    return null
  }

  async function redrive(task: HeldTask): Promise<number | null> {
    const gone = !task.queueThere ? task.queue : !task.targetThere ? task.to : null
    if (gone !== null) return finish('failed', `The queue ${gone} is gone.`)
    const left = (task.limit ?? Number.POSITIVE_INFINITY) - (task.dryRun ? task.matched : task.moved)
    if (left <= 0) return finish('done', null)

    if (task.rate && !task.dryRun) paced ??= pace(task.rate.count, task.rate.perMs, monotonicMs())
    const waitMs = paced?.waitMs(monotonicMs()) ?? 0
    if (waitMs > 0) return Math.min(waitMs, claimEveryMs)
    const now = Math.min(lettersAtOnce, left, paced?.within(monotonicMs(), burstMs) ?? lettersAtOnce)

    const filter = compileLetterFilter(task.filter)
    const rows = await store.readLetters(
      db,
      task.from,
      task.queueId,
      task.at,
      { position: task.upTo },
      {
        limit: paced ? Math.min(lettersAtOnce, now * readAhead) : lettersAtOnce,
        maxBytes: messageLimits.answerBytes,
        withBody: filter.usesBody,
      },
    )
    if (rows.length === 0 && task.next) {
      await store.turnTask(db, gateway, id, task.from, task.next)
      return 0
    }
    if (rows.length === 0) return finish('done', null)
    const { letters, scanned, end } = choose(rows, task, filter.matches, now)
    const redriven = await store.redriveLetters(db, {
      task: id,
      gateway,
      queueId: task.queueId,
      from: task.from,
      at: task.at,
      letters: task.dryRun ? [] : letters,
      end,
      scanned,
      matched: letters.length,
      aliveMs,
    })
    if (!redriven) return 0
    for (let n = 0; n < redriven.moved; n++) paced?.take(monotonicMs())
    for (const item of redriven.appended) appended(item)
    for (const { queueId, count } of redriven.arrived) sent(queueId, count)
    // Ready messages that were locked and then left: a lease may have passed over them meanwhile.
    if (task.from === 'messages' && !task.dryRun && redriven.moved < letters.length)
      for (const letter of letters) appended({ queueId: task.queueId, lane: letter.first, position: letter.second })
    elect(redriven.freed)
    return redriven.full ? fullRestMs : 0
  }

  return async () => {
    const task = await store.holdTask(db, gateway, id, aliveMs)
    if (!task) return null
    try {
      return await redrive(task)
    } catch (error) {
      if (error instanceof BrokerError && error.code === 'unavailable') throw error
      log('a task failed', { task: task.id, error })
      return finish('failed', `An error of the gateway's own ended it; its log says more about ${task.id}.`)
    }
  }
}

type Chosen = { letters: MovingLetter[]; scanned: number; end: { first: number; second: number } }

/** The first `most` letters that match, and how far they were looked for. A ready message that never died is no letter. */
function choose(
  rows: readonly LetterRow[],
  task: HeldTask,
  matches: ReturnType<typeof compileLetterFilter>['matches'],
  most: number,
): Chosen {
  const letters: MovingLetter[] = []
  let scanned = 0
  let end = task.at
  for (const row of rows) {
    if (letters.length >= most) break
    end = { first: row.first, second: row.second }
    const origin = row.headers?.[deathHeader.queue]
    if (task.from !== 'dead' && origin === undefined) continue
    scanned++
    if (!matches({ headers: row.headers ?? {}, key: row.key, reason: row.reason, diedMs: row.died_ms, body: row.body }))
      continue
    const home =
      task.from === 'dead' ? task.queueId : Object.hasOwn(task.origins, origin ?? '') && task.origins[origin ?? '']
    const targetId = task.targetId ?? (home || 0)
    const { tid, version, first, second, key } = row
    letters.push({ tid, version, first, second, key, targetId, seen: scanned })
  }
  return { letters, scanned, end }
}
