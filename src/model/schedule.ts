/** Schedules: a cron entry that sends a message, and what to do with a fire that comes late. */
import { type Cron, nextFire, nextInStep } from './cron.ts'
import type { NewMessage } from './message.ts'

export const misfires = ['skip', 'once'] as const
/** What becomes of fires that nobody was there for: forgotten, or made up for by one. */
export type Misfire = (typeof misfires)[number]

export type ScheduleTarget = { queue: string } | { topic: string; routingKey: string }

export type ScheduledMessage = Pick<
  NewMessage,
  'body' | 'contentType' | 'headers' | 'key' | 'priority' | 'delayMs' | 'ttlMs'
>

export type ScheduleSettings = {
  /** As its author wrote it; see cron.ts. */
  cron: string
  /** IANA. */
  timezone: string
  target: ScheduleTarget
  message: ScheduledMessage
  misfire: Misfire
  paused: boolean
}

export type Schedule = ScheduleSettings & {
  name: string
  /** null while it is paused. */
  nextFireAt: Date | null
  /** `at`: when it was to fire, or was told to. Either a message or an error. */
  lastFire: { at: Date; messageId: string | null; error: string | null } | null
  createdAt: Date
  updatedAt: Date
}

/** A fire up to so late still happens; one that is later was missed. As Quartz's misfire threshold. */
export const lateFireMs = 60_000

/**
 * What to do at `nowMs` with the fire that was due at `dueMs`, and when the next is due (perhaps long since; null: never). Of fires that
 * were missed `once` sends the first, which stands for all, and `skip` none; both go on with the first that is not too late.
 */
export function fireVerdict(
  { cron, timezone, misfire }: { cron: Cron; timezone: string; misfire: Misfire },
  dueMs: number,
  nowMs: number,
): { fires: boolean; nextMs: number | null } {
  const missed = nowMs - dueMs > lateFireMs
  // The last minute's are not among those that one stands for.
  const nextMs = nextInStep(cron, timezone, dueMs, missed ? nowMs - lateFireMs : dueMs)
  return { fires: !missed || misfire === 'once', nextMs }
}

/** When a schedule that is put or resumed at `nowMs` fires next. What is put unchanged keeps its step, however often it is put. */
export function firstFire(
  cron: Cron,
  { cron: text, timezone }: Pick<ScheduleSettings, 'cron' | 'timezone'>,
  before: Pick<Schedule, 'cron' | 'timezone' | 'nextFireAt'> | null,
  nowMs: number,
): number | null {
  const unchanged = before?.cron === text && before.timezone === timezone
  return (unchanged ? before.nextFireAt?.getTime() : undefined) ?? nextFire(cron, timezone, nowMs)
}
