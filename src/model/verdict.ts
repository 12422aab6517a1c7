/** What a webhook attempt's outcome means: for the message, and for the endpoint. */
import type { Retry } from './subscription.ts'

/** No usable answer came. */
export type FailureCode =
  | 'timeout'
  | 'connect_timeout'
  | 'refused'
  | 'reset'
  | 'dns'
  | 'tls'
  | 'malformed'
  | 'forbidden_address'
  | 'aborted'
  | 'network'

export type Outcome =
  /** `retryAfter`: the text of that header. */
  { kind: 'answer'; status: number; retryAfter: string | null } | { kind: 'failure'; code: FailureCode; detail: string }

export type Verdict =
  | { action: 'settle' }
  /** `holdMs`: the whole endpoint is left alone for so long. */
  | { action: 'retry'; delayMs: number; holdMs: number | null; error: string }
  | { action: 'dead'; reason: 'max_attempts' | 'gone'; disable: boolean; holdMs: number | null; error: string }

type Facts = { attempt: number; maxAttempts: number; retry: Retry; nowMs: number; random: number }

/** The longest that an endpoint may ask to be left alone. */
const mostHoldMs = 24 * 3600_000
const jitter = 0.2

const failures: Record<FailureCode, string> = {
  timeout: 'The endpoint did not answer in time.',
  connect_timeout: 'The endpoint could not be connected to in time.',
  refused: 'The endpoint refused the connection.',
  reset: 'The endpoint closed the connection before it answered.',
  dns: "The endpoint's host name could not be resolved.",
  tls: 'The TLS connection to the endpoint failed.',
  malformed: 'The endpoint did not answer with HTTP.',
  forbidden_address: "The endpoint's address is not a public one.",
  aborted: 'The attempt was broken off by the gateway.',
  network: 'The endpoint could not be reached.',
}

/**
 * 2xx settles. 410 (RFC 9110, 15.5.11) ends the subscription. Everything else is tried again on the schedule, redirects too, which
 * are not followed. 429 and 503 with a Retry-After (RFC 9110, 10.2.3) hold the endpoint. `attempt` counts from 1.
 */
export function verdictOf(outcome: Outcome, { attempt, maxAttempts, retry, nowMs, random }: Facts): Verdict {
  const error = describeOutcome(outcome)
  if (outcome.kind === 'answer') {
    if (outcome.status >= 200 && outcome.status < 300) return { action: 'settle' }
    if (outcome.status === 410) return { action: 'dead', reason: 'gone', disable: true, holdMs: null, error }
  }
  const asked = outcome.kind === 'answer' && (outcome.status === 429 || outcome.status === 503)
  const holdMs = asked ? retryAfterMs(outcome.retryAfter, nowMs) : null
  if (attempt >= maxAttempts) return { action: 'dead', reason: 'max_attempts', disable: false, holdMs, error }
  return { action: 'retry', delayMs: holdMs ?? waitMs(retry, attempt, random), holdMs, error }
}

function describeOutcome(outcome: Outcome): string {
  if (outcome.kind === 'failure')
    return outcome.detail === '' ? failures[outcome.code] : `${failures[outcome.code]} (${outcome.detail})`
  if (outcome.status >= 300 && outcome.status < 400)
    return `The endpoint answered ${outcome.status}; redirects are not followed.`
  return `The endpoint answered ${outcome.status}.`
}

/** After the `attempt`-th failure; the last wait of a schedule repeats. `random` in [0, 1) spreads it by ±20 %. */
export function waitMs(retry: Retry, attempt: number, random: number): number {
  const plain =
    retry.kind === 'schedule'
      ? (retry.scheduleMs[Math.min(attempt, retry.scheduleMs.length) - 1] ?? 0)
      : Math.min(retry.maxMs, retry.baseMs * Math.min(Number.MAX_VALUE, retry.factor ** (attempt - 1)))
  return Math.round(plain * (1 - jitter + 2 * jitter * random))
}

/**
 * Milliseconds from now, at most a day; null for what is no time in the future. Whole seconds or a date (RFC 9110, 10.2.3); what is
 * neither is as good as none.
 */
export function retryAfterMs(text: string | null, nowMs: number): number | null {
  if (text === null) return null
  const trimmed = text.trim()
  const ms = /^\d+$/.test(trimmed) ? Number(trimmed) * 1000 : (httpDateMs(trimmed, nowMs) ?? nowMs) - nowMs
  return ms > 0 ? Math.min(ms, mostHoldMs) : null
}

const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const dateForms = [
  /^[A-Z][a-z]{2}, (?<day>\d\d) (?<month>[A-Z][a-z]{2}) (?<year>\d{4}) (?<time>\d\d:\d\d:\d\d) GMT$/,
  /^[A-Z][a-z]+day, (?<day>\d\d)-(?<month>[A-Z][a-z]{2})-(?<year>\d\d) (?<time>\d\d:\d\d:\d\d) GMT$/,
  /^[A-Z][a-z]{2} (?<month>[A-Z][a-z]{2}) (?<day>[ \d]\d) (?<time>\d\d:\d\d:\d\d) (?<year>\d{4})$/,
]

/** The three forms of RFC 9110, 5.6.7: IMF-fixdate, RFC 850, asctime. null for any other text, and for a day or time that is none. */
function httpDateMs(text: string, nowMs: number): number | null {
  for (const form of dateForms) {
    const { day, month, year, time } = form.exec(text)?.groups ?? {}
    if (day === undefined || month === undefined || year === undefined || time === undefined) continue
    const [hour = 0, minute = 0, second = 0] = time.split(':').map(Number)
    const fullYear = year.length === 2 ? nearestYear(Number(year), new Date(nowMs).getUTCFullYear()) : Number(year)
    const dayMs = Date.UTC(fullYear, months.indexOf(month), Number(day))
    const isDay = new Date(dayMs).getUTCDate() === Number(day) && months.includes(month)
    // 60 is a leap second.
    if (!isDay || hour > 23 || minute > 59 || second > 60) return null
    return dayMs + ((hour * 60 + minute) * 60 + second) * 1000
  }
  return null
}

/** More than fifty years ahead is the past (RFC 9110, 5.6.7). */
const nearestYear = (digits: number, thisYear: number): number => {
  const first = thisYear - 49
  return first + ((((digits - first) % 100) + 100) % 100)
}
