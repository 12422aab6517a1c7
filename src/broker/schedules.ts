/**
 * Schedules fire exactly once, however many gateways run and whenever one dies: the claim of a due schedule, the message and the time of
 * the next fire are one transaction. A dedup id would not do: a queue may forget it (dedup_window) while a gateway that had read the
 * schedule stands still. What waits for the commit are only the hints to receivers.
 */
import { type Loop, loop, monotonicMs } from '../base/index.ts'
import {
  fireVerdict,
  nextFires,
  type Observe,
  parseCron,
  type Schedule,
  type ScheduleSettings,
} from '../model/index.ts'
import type { Database, ScheduleNow } from '../store/index.ts'
import * as store from '../store/index.ts'
import { type Firing, firingAll, keep, type Told } from './firing.ts'

/** Stored in some fifty milliseconds, for so long are their locks held. */
const claimsAtOnce = 500
/** How long one that a lock was in the way of is left alone. */
const asideMs = 1_000
const idleMs = 500
/** Somebody else is at work, or a lock is in the way. */
const againMs = 50
/** How far back the next fire is looked for, and now and then (or when something went wrong) everything. */
const lookBackS = 5
const everythingS = 1e9
const everythingEveryMs = 5_000

type Options = {
  db: Database
  told: Told
  observe: Pick<Observe, 'fired'>
  log(event: string, fields?: Record<string, unknown>): void
}

type Done = { name: string; dueMs: number; nowMs: number; nextMs: number | null; fire: Firing | null }

export type Scheduler = {
  /** A schedule may have become due earlier. */
  changed(): void
  stop(): Promise<void>
}

export function startScheduler({ db, told, observe, log }: Options): Scheduler {
  let everythingAtMs = Number.NEGATIVE_INFINITY
  let more = false
  const aside = new Map<string, number>()

  function backS(): number {
    if (!more && monotonicMs() - everythingAtMs < everythingEveryMs) return lookBackS
    everythingAtMs = monotonicMs()
    return everythingS
  }

  async function step(): Promise<number> {
    const back = backS()
    more = true
    const untilMs = await store.untilFire(db, back)
    if (untilMs === null || untilMs > 0) {
      more = false
      return Math.min(idleMs, Math.ceil(untilMs ?? idleMs))
    }
    const { claimed, rest, left } = await fireDue(back)
    more = left || rest || (claimed === 0 && back === everythingS)
    return claimed === 0 || left ? againMs : 0
  }

  /** `rest`: others may be due, or one is again already. `left`: some could not be fired for now. */
  async function fireDue(back: number): Promise<{ claimed: number; rest: boolean; left: boolean }> {
    const later = keep(told)
    const { due, done, more } = await db.together(async (inside) => {
      const { due, more } = await store.claimDue(inside, back, claimsAtOnce, held())
      const done = await fireAll(inside, due, later.told)
      await store.recordFires(
        inside,
        done.map(({ fire, ...each }) => ({ ...each, fire: fire && { ...fire, error: fire.error?.message ?? null } })),
      )
      return { due, done, more }
    })
    later.tell()
    for (const one of done) report(one)
    const behind = done.some(({ nowMs, nextMs }) => nextMs !== null && nextMs <= nowMs)
    return { claimed: due.length, rest: more || behind, left: done.length < due.length }
  }

  /** Without those that could not be fired now. */
  async function fireAll(inside: Database, due: readonly ScheduleNow[], told: Told): Promise<Done[]> {
    const verdicts = due.map(({ schedule, nowMs }) => {
      const dueMs = schedule.nextFireAt?.getTime() ?? nowMs
      const { misfire, timezone } = schedule
      const verdict = fireVerdict({ cron: cronOf(schedule), timezone, misfire }, dueMs, nowMs)
      return { ...verdict, schedule, atMs: dueMs, nowMs }
    })
    const fires = verdicts.filter((verdict) => verdict.fires)
    const firings = await firingAll(inside, fires, told)
    const byName = new Map(fires.map(({ schedule }, at) => [schedule.name, firings[at] ?? null]))
    const done: Done[] = []
    for (const { schedule, fires: wanted, atMs, nowMs, nextMs } of verdicts) {
      const fire = byName.get(schedule.name) ?? null
      if (fire?.error?.code === 'unavailable') aside.set(schedule.name, monotonicMs() + asideMs)
      else if (fire || !wanted) done.push({ name: schedule.name, dueMs: atMs, nowMs, nextMs, fire })
    }
    return done
  }

  /** Those that somebody's lock has just kept from firing; the others need not wait for them. */
  function held(): string[] {
    for (const [name, untilMs] of aside) if (untilMs <= monotonicMs()) aside.delete(name)
    return [...aside.keys()]
  }

  function report({ name, dueMs, nowMs, nextMs, fire }: Done): void {
    const fields = { schedule: name, due_at: new Date(dueMs).toISOString(), late_ms: nowMs - dueMs }
    observe.fired(!fire ? 'missed' : fire.error ? 'failed' : 'sent')
    if (!fire) log('schedule missed', fields)
    else if (fire.error) log('schedule failed', { ...fields, error: fire.error })
    // A put refuses what never fires, so this gateway does not know the time zone.
    if (nextMs === null) log('schedule ended', fields)
  }

  const firingLoop: Loop = loop(step, { retryMs: idleMs, failed: (error) => log('schedules failed', { error }) })
  return { changed: () => firingLoop.nudge(), stop: firingLoop.stop }
}

/** Of a schedule that is stored, so its text was understood. */
export function cronOf({ cron: text }: Pick<ScheduleSettings, 'cron'>) {
  const parsed = parseCron(text)
  if ('error' in parsed) throw new Error(`stored schedule: ${parsed.error}`)
  return parsed.cron
}

/** The next `count` fires; none while it is paused. */
export function firesOf(schedule: Schedule, count: number): Date[] {
  const { nextFireAt, timezone } = schedule
  if (!nextFireAt) return []
  const rest = nextFires(cronOf(schedule), timezone, nextFireAt.getTime(), count - 1)
  return [nextFireAt, ...rest.map((ms) => new Date(ms))]
}
