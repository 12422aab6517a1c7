/**
 * Schedules fire exactly once, however many gateways run and whenever one dies: the claim of a due schedule, the message and the time of
 * the next fire are one transaction. A dedup id would not do: a queue may forget it (dedup_window) while a gateway that had read the
 * schedule stands still. What waits for the commit are only the hints to receivers.
 */
import { type Loop, loop, monotonicMs } from '../base/index.ts'
import {
  BrokerError,
  fireVerdict,
  type NewMessage,
  nextFires,
  parseCron,
  type Schedule,
  type ScheduleSettings,
} from '../model/index.ts'
import type { Database, ScheduleNow } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { HandOver } from './handover.ts'
import { createPublisher } from './publish.ts'
import { createQueues } from './queues.ts'
import { createTopics } from './topics.ts'
import { createWriter } from './write.ts'

/** What is told about messages that were stored; see write.ts. */
type Writing = Parameters<typeof createWriter>[0]
export type Told = Pick<Writing, 'appended' | 'scheduled' | 'sent' | 'elect' | 'order' | 'gateway'>

export type Firing = { atMs: number; messageId: string | null; error: BrokerError | null }

/** As few as are stored in some ten milliseconds, for so long are their locks held. */
const claimsAtOnce = 20
const idleMs = 500
/** Somebody else is at work, or a lock is in the way. */
const againMs = 50
/** How far back the next fire is looked for, and now and then (or when something went wrong) everything. */
const lookBackS = 5
const everythingS = 1e9
const everythingEveryMs = 5_000

type Options = { db: Database; told: Told; log(event: string, fields?: Record<string, unknown>): void }

type Done = { name: string; dueMs: number; nowMs: number; nextMs: number | null; fire: Firing | null }

export type Scheduler = {
  /** A schedule may have become due earlier. */
  changed(): void
  stop(): Promise<void>
}

export function startScheduler({ db, told, log }: Options): Scheduler {
  let everythingAtMs = Number.NEGATIVE_INFINITY
  let more = false

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
    const { claimed, behind, left } = await fireDue(back)
    more = left || behind || claimed === claimsAtOnce || (claimed === 0 && back === everythingS)
    return claimed === 0 || left ? againMs : 0
  }

  /** `behind`: one is due again already. `left`: one could not be fired for now, and those after it were not tried. */
  async function fireDue(back: number): Promise<{ claimed: number; behind: boolean; left: boolean }> {
    const later = keep(told)
    const { due, done } = await db.together(async (inside) => {
      const due = await store.claimDue(inside, back, claimsAtOnce)
      const done: Done[] = []
      for (const claim of due) {
        const one = await fireOne(inside, claim, later.told)
        if (!one) break
        done.push(one)
      }
      return { due, done }
    })
    later.tell()
    for (const one of done) report(one)
    const behind = done.some(({ nowMs, nextMs }) => nextMs !== null && nextMs <= nowMs)
    return { claimed: due.length, behind, left: done.length < due.length }
  }

  /** null: not now. */
  async function fireOne(inside: Database, { schedule, nowMs }: ScheduleNow, told: Told): Promise<Done | null> {
    const { name, misfire, timezone } = schedule
    const dueMs = schedule.nextFireAt?.getTime() ?? nowMs
    const { fires, nextMs } = fireVerdict({ cron: cronOf(schedule), timezone, misfire }, dueMs, nowMs)
    const fire = fires ? await firing(inside, schedule, dueMs, told) : null
    if (fire?.error?.code === 'unavailable') return null
    await store.recordFire(inside, name, nextMs, fire && { ...fire, error: fire.error?.message ?? null })
    return { name, dueMs, nowMs, nextMs, fire }
  }

  function report({ name, dueMs, nowMs, nextMs, fire }: Done): void {
    const fields = { schedule: name, due_at: new Date(dueMs).toISOString(), late_ms: nowMs - dueMs }
    if (!fire) log('schedule missed', fields)
    else if (fire.error) log('schedule failed', { ...fields, error: fire.error })
    // A put refuses what never fires, so this gateway does not know the time zone.
    if (nextMs === null) log('schedule ended', fields)
  }

  const firingLoop: Loop = loop(step, { retryMs: idleMs, failed: (error) => log('schedules failed', { error }) })
  return { changed: () => firingLoop.nudge(), stop: firingLoop.stop }
}

/**
 * Sends a schedule's message, inside the transaction that will record it; what refuses it is undone and returned. `told` must be
 * kept until the commit.
 */
export async function firing(inside: Database, schedule: Schedule, atMs: number, told: Told): Promise<Firing> {
  try {
    const messageId = await inside.together((part) => sendFor(part, schedule, atMs, told))
    return { atMs, messageId, error: null }
  } catch (error) {
    if (error instanceof BrokerError) return { atMs, messageId: null, error }
    const detail = 'The message could not be stored; the log has more.'
    return { atMs, messageId: null, error: new BrokerError('internal', detail, { cause: error }) }
  }
}

async function sendFor(db: Database, schedule: Schedule, atMs: number, told: Told): Promise<string> {
  const { name, target } = schedule
  const headers = { 'postern-schedule': name, 'postern-fire-time': new Date(atMs).toISOString() }
  const message: NewMessage = {
    ...schedule.message,
    headers: Object.assign(Object.create(null), schedule.message.headers, headers),
    deliverAtMs: null,
    dedupId: null,
  }
  if ('topic' in target) {
    const publish = createPublisher({ db, topics: createTopics(db), handOver: noHands, ...told })
    return (await publish(target.topic, target.routingKey, message)).id
  }
  const write = createWriter({ db, queues: createQueues(db, () => true), handOver: noHands, ...told })
  const [sent] = await write(target.queue, [message], true)
  if (!sent || sent instanceof Error) throw sent ?? new Error('send: no answer')
  return sent.id
}

/** What is not committed yet is handed to nobody. */
const noHands: HandOver = { reserve: () => ({ hands: [], flights: [], probes: [] }), finish: () => {} }

/** Hints that are given when `tell` is called. */
export function keep({ gateway, order, appended, scheduled, sent, elect }: Told): { told: Told; tell(): void } {
  const kept: (() => void)[] = []
  const later =
    <Words extends unknown[]>(hint: (...words: Words) => void) =>
    (...words: Words) =>
      void kept.push(() => hint(...words))
  return {
    told: {
      gateway,
      order,
      appended: later(appended),
      scheduled: later(scheduled),
      sent: later(sent),
      elect: later(elect),
    },
    tell: () => {
      for (const hint of kept) hint()
    },
  }
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
