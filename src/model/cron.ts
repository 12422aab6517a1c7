/**
 * When a schedule fires. Five fields (minute, hour, day of month, month, day of week), six with seconds first, `@hourly` and its
 * kin, or `@every` and a duration; evaluated on the wall clock of an IANA time zone.
 *
 * When that clock is set (daylight saving): an entry for certain hours fires once for each wall-clock time that it names. A time
 * that is skipped fires at the first moment after the gap (several skipped ones: once), a time that comes twice fires the first
 * time. An entry whose hour field names every hour fires whenever the clock shows what it names, so it keeps its real distance through
 * the change; `@every` does not look at the clock at all. This is the rule of cron(8): "jobs that run at a specific time" against
 * "jobs that run more frequently", which "are scheduled normally".
 */
import { formatDuration, parseDuration } from './duration.ts'

export type Cron =
  | { kind: 'every'; everyMs: number }
  | {
      kind: 'fields'
      /** The values of each field, ascending. Days of the week from 0, Sunday. */
      seconds: readonly number[]
      minutes: readonly number[]
      hours: readonly number[]
      days: readonly number[]
      months: readonly number[]
      weekdays: readonly number[]
      /** Both day fields are restricted: a day that is in one of them will do (crontab(5)). */
      eitherDay: boolean
    }

type Fields = Extract<Cron, { kind: 'fields' }>

export const cronLimits = { textLength: 255, everyMs: { min: 1000, max: 10 * 365 * 86_400_000 } } as const

const DAY_MS = 86_400_000
/** 29 February comes again after eight years at the latest (2096, 2104). */
const horizonDays = 8 * 366 + 1

const macros: Record<string, string> = {
  '@hourly': '0 * * * *',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@weekly': '0 0 * * 0',
  '@monthly': '0 0 1 * *',
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
}

/** What the text says, or for its author what is wrong with it. */
export function parseCron(text: string): { cron: Cron } | { error: string } {
  if (text.length > cronLimits.textLength) return { error: `must be at most ${cronLimits.textLength} characters` }
  const words = text.split(/[ \t]+/).filter((word) => word !== '')
  const first = words[0]?.toLowerCase() ?? ''
  if (first === '@every') return parseEvery(words.slice(1))
  const expanded = words.length === 1 && Object.hasOwn(macros, first) ? (macros[first] ?? '').split(' ') : words
  if (first.startsWith('@') && expanded === words)
    return { error: `is none of ${Object.keys(macros).join(', ')}, @every DURATION` }
  if (expanded.length !== 5 && expanded.length !== 6)
    return { error: 'must be five fields (minute, hour, day of month, month, day of week), or six with seconds first' }
  return parseFields(expanded.length === 5 ? ['0', ...expanded] : expanded)
}

/**
 * The first moment after `afterMs` (milliseconds since 1970) at which it fires, or null when it never does, or the time zone is
 * not known here. `@every` counts from `afterMs`.
 */
export function nextFire(cron: Cron, timezone: string, afterMs: number): number | null {
  return nextFires(cron, timezone, afterMs, 1)[0] ?? null
}

/** The same for the first `count` moments; fewer when there are not so many. */
export function nextFires(cron: Cron, timezone: string, afterMs: number, count: number): number[] {
  const offsetAt = zoneOffset(timezone)
  if (!offsetAt) return []
  const found: number[] = []
  for (let after: number | null = afterMs; found.length < count; ) {
    after = nextOf(cron, offsetAt, after)
    if (after === null) break
    found.push(after)
  }
  return found
}

/** The first moment after `afterMs`, for one that was to fire at `dueMs`: `@every` keeps in step with it. */
export function nextInStep(cron: Cron, timezone: string, dueMs: number, afterMs: number): number | null {
  if (cron.kind === 'fields') return nextFire(cron, timezone, afterMs)
  const steps = Math.max(1, Math.floor((afterMs - dueMs) / cron.everyMs) + 1)
  return dueMs + steps * cron.everyMs
}

/** null, or why this is no time zone. */
export function timezoneError(name: string): string | null {
  return zoneOffset(name) ? null : 'must be an IANA time zone, such as Europe/Berlin or UTC'
}

function parseEvery(words: readonly string[]): { cron: Cron } | { error: string } {
  const everyMs = words.length === 1 ? parseDuration(words[0] ?? '') : null
  if (everyMs === null) return { error: '@every needs one duration, such as 30s, 5m, 2h' }
  const { min, max } = cronLimits.everyMs
  if (everyMs >= min && everyMs <= max) return { cron: { kind: 'every', everyMs } }
  return { error: `@every must be ${formatDuration(min)} to ${formatDuration(max)}` }
}

type Shape = { name: string; min: number; max: number; words: readonly string[] }

const monthNames = ['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']
const shapes = [
  { name: 'second', min: 0, max: 59, words: [] },
  { name: 'minute', min: 0, max: 59, words: [] },
  { name: 'hour', min: 0, max: 23, words: [] },
  { name: 'day of month', min: 1, max: 31, words: [] },
  { name: 'month', min: 1, max: 12, words: monthNames },
  { name: 'day of week', min: 0, max: 7, words: ['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT'] },
] as const satisfies readonly Shape[]

function parseFields(texts: readonly string[]): { cron: Cron } | { error: string } {
  const parsed = shapes.map((shape, at) => parseField(texts[at] ?? '', shape))
  const wrong = parsed.find((field) => 'error' in field)
  if (wrong && 'error' in wrong) return wrong
  const [seconds = [], minutes = [], hours = [], days = [], months = [], weekdays = []] = parsed.map((field) =>
    'values' in field ? field.values : [],
  )
  // As crontab(5): a field that begins with a star, steps or not, restricts nothing.
  const restricted = (text: string | undefined) => !text?.startsWith('*')
  return {
    cron: {
      ...{ kind: 'fields', seconds, minutes, hours, days, months },
      weekdays: ascending(weekdays.map((day) => day % 7)),
      eitherDay: restricted(texts[3]) && restricted(texts[5]),
    },
  }
}

const ascending = (values: readonly number[]): number[] => [...new Set(values)].sort((a, b) => a - b)

function parseField(text: string, shape: Shape): { values: number[] } | { error: string } {
  const values: number[] = []
  for (const part of text.split(',')) {
    const range = parseRange(part, shape)
    if ('error' in range) return { error: `${shape.name}: ${part === '' ? 'a value is missing' : range.error}` }
    for (let value = range.from; value <= range.to; value += range.step) values.push(value)
  }
  return { values: ascending(values) }
}

function parseRange(part: string, shape: Shape): { from: number; to: number; step: number } | { error: string } {
  const { min, max } = shape
  const [, range = '', stepText] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(part) ?? []
  const step = stepText === undefined ? 1 : Number(stepText)
  if (range === '') return { error: `${part} is not understood` }
  if (step < 1 || step > max - min + 1) return { error: `the step of ${part} must be 1 to ${max - min + 1}` }
  if (range === '*') return { from: min, to: shape.name === 'day of week' ? 6 : max, step }
  const [first = '', last, ...more] = range.split('-')
  const from = numberOf(first, shape)
  let to = last === undefined ? (stepText === undefined ? from : max) : numberOf(last, shape)
  if (from === null || to === null || more.length > 0)
    return { error: `${part} is not understood: values are ${min} to ${max}${namesOf(shape)}` }
  // FRI-SUN: the week may end with Sunday.
  if (shape.name === 'day of week' && to === 0 && from > 0) to = 7
  return from <= to ? { from, to, step } : { error: `${part} begins after its end` }
}

const namesOf = ({ words }: Shape): string => (words.length > 0 ? ` or ${words[0]} to ${words.at(-1)}` : '')

function numberOf(text: string, { min, max, words }: Shape): number | null {
  const name = words.indexOf(text.toUpperCase())
  if (name >= 0) return name + min
  const value = /^\d{1,2}$/.test(text) ? Number(text) : Number.NaN
  return value >= min && value <= max ? value : null
}

/** How far a zone's wall clock is ahead of UTC at a moment, both in milliseconds. A wall-clock time is written as UTC would show it. */
type OffsetAt = (atMs: number) => number

function nextOf(cron: Cron, offsetAt: OffsetAt, afterMs: number): number | null {
  if (cron.kind === 'every') return afterMs + cron.everyMs
  return cron.hours.length === 24 ? nextShown(cron, offsetAt, afterMs) : nextOnce(cron, offsetAt, afterMs)
}

const wholeSecond = (ms: number): number => Math.floor(ms / 1000) * 1000

/** The next moment at which the clock shows a matching time, going from one setting of the clock to the next. */
function nextShown(cron: Fields, offsetAt: OffsetAt, afterMs: number): number | null {
  for (let fromMs = wholeSecond(afterMs) + 1000; ; ) {
    const offsetMs = offsetAt(fromMs)
    const wallMs = nextWall(cron, fromMs + offsetMs)
    if (wallMs === null) return null
    const atMs = wallMs - offsetMs
    const changeMs = firstChange(offsetAt, fromMs, Math.min(atMs, fromMs + DAY_MS))
    if (changeMs === null && atMs <= fromMs + DAY_MS) return atMs
    // Nothing matches for days: only a change shortly before it matters.
    fromMs = changeMs ?? Math.max(fromMs + DAY_MS, atMs - 2 * DAY_MS)
  }
}

/**
 * The next matching wall-clock time, each at one moment only. Later wall-clock times never have earlier moments, so those up to the
 * one shown now are past; after the clock was set back, so are some that it will show again.
 */
function nextOnce(cron: Fields, offsetAt: OffsetAt, afterMs: number): number | null {
  for (let wallMs: number | null = wholeSecond(afterMs + offsetAt(afterMs)); ; ) {
    wallMs = nextWall(cron, wallMs + 1000)
    if (wallMs === null) return null
    const atMs = momentOf(wallMs, offsetAt)
    if (atMs > afterMs) return atMs
  }
}

/** The first moment at which the clock shows that time or, when it skips it, a later one. */
function momentOf(wallMs: number, offsetAt: OffsetAt): number {
  // No zone is farther from UTC than a day, and none sets its clock twice in two days.
  const beforeMs = offsetAt(wallMs - DAY_MS)
  const changeMs = firstChange(offsetAt, wallMs - DAY_MS, wallMs + DAY_MS)
  if (changeMs === null || wallMs - beforeMs < changeMs) return wallMs - beforeMs
  return Math.max(changeMs, wallMs - offsetAt(changeMs))
}

/** The first second after `fromMs` and up to `toMs` with another offset than `fromMs`. */
function firstChange(offsetAt: OffsetAt, fromMs: number, toMs: number): number | null {
  const offsetMs = offsetAt(fromMs)
  for (let sameMs = fromMs; sameMs < toMs; ) {
    let otherMs = Math.min(toMs, sameMs + DAY_MS)
    if (offsetAt(otherMs) === offsetMs) {
      sameMs = otherMs
      continue
    }
    while (otherMs - sameMs > 1000) {
      const middleMs = wholeSecond((sameMs + otherMs) / 2)
      if (offsetAt(middleMs) === offsetMs) sameMs = middleMs
      else otherMs = middleMs
    }
    return otherMs
  }
  return null
}

/** The first matching wall-clock time at or after a whole second. */
function nextWall(cron: Fields, fromMs: number): number | null {
  const firstDay = Math.floor(fromMs / DAY_MS)
  for (let day = firstDay; day < firstDay + horizonDays; day++) {
    if (!isDay(cron, new Date(day * DAY_MS))) continue
    const second = nextSecond(cron, day === firstDay ? (fromMs - day * DAY_MS) / 1000 : 0)
    if (second !== null) return day * DAY_MS + second * 1000
  }
  return null
}

function isDay({ days, months, weekdays, eitherDay }: Fields, date: Date): boolean {
  if (!months.includes(date.getUTCMonth() + 1)) return false
  const inMonth = days.includes(date.getUTCDate())
  const inWeek = weekdays.includes(date.getUTCDay())
  return eitherDay ? inMonth || inWeek : inMonth && inWeek
}

/** The first matching second of a day, from `from` on. */
function nextSecond({ hours, minutes, seconds }: Fields, from: number): number | null {
  for (const hour of hours) {
    if (hour * 3600 + 3599 < from) continue
    for (const minute of minutes) {
      const start = hour * 3600 + minute * 60
      const second = start + 59 < from ? undefined : seconds.find((each) => start + each >= from)
      if (second !== undefined) return start + second
    }
  }
  return null
}

function zoneOffset(timezone: string): OffsetAt | null {
  if (timezone === 'UTC') return () => 0
  // Some engines also take offsets such as +02:00, others do not.
  if (!/^[A-Za-z][A-Za-z0-9+_/-]{0,63}$/.test(timezone)) return null
  let format: Intl.DateTimeFormat
  try {
    format = new Intl.DateTimeFormat('en-US', {
      ...{ timeZone: timezone, hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric' },
      ...{ hour: 'numeric', minute: 'numeric', second: 'numeric' },
    })
  } catch {
    return null
  }
  return (atMs) => {
    const shown: Record<string, number> = {}
    for (const { type, value } of format.formatToParts(atMs)) shown[type] = Number(value)
    const { year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0 } = shown
    return Date.UTC(year, month - 1, day, hour, minute, second) - wholeSecond(atMs)
  }
}
