/** What an outcome means for the message and for the endpoint: one table, and the laws that hold for all of it. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  attemptsOf,
  defaultRetry,
  type FailureCode,
  type Outcome,
  type Retry,
  retryAfterMs,
  type Verdict,
  verdictOf,
  waitMs,
} from '../src/model/index.ts'

const SECOND = 1000
const HOUR = 3600 * SECOND
const DAY = 24 * HOUR
/** Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples. */
const then = 784_111_777_000
const maxAttempts = attemptsOf({ maxAttempts: null, retry: defaultRetry })
const facts = { attempt: 1, maxAttempts, retry: defaultRetry, nowMs: then, random: 0.5 }
const answer = (status: number, retryAfter: string | null = null): Outcome => ({ kind: 'answer', status, retryAfter })
const failure = (code: FailureCode, detail = ''): Outcome => ({ kind: 'failure', code, detail })
const judge = (outcome: Outcome, changed: Partial<typeof facts> = {}): Verdict =>
  verdictOf(outcome, { ...facts, ...changed })

const codes: FailureCode[] = [
  'timeout',
  'connect_timeout',
  'refused',
  'reset',
  'dns',
  'tls',
  'malformed',
  'forbidden_address',
  'aborted',
  'network',
]

describe('the verdict on an attempt', () => {
  test.each([200, 201, 202, 204, 206, 226, 299])('%i settles', (status) => {
    expect(judge(answer(status))).toEqual({ action: 'settle' })
    expect(judge(answer(status), { attempt: maxAttempts })).toEqual({ action: 'settle' })
  })

  test.each([100, 101, 103, 199, 300, 301, 302, 304, 307, 308, 400, 401, 404, 409, 422, 429, 451, 500, 502, 503, 599])(
    '%i is tried again on the schedule',
    (status) => {
      const verdict = judge(answer(status))
      expect(verdict).toMatchObject({ action: 'retry', delayMs: 5 * SECOND, holdMs: null })
      expect(verdict).toHaveProperty('error', expect.stringContaining(`answered ${status}`))
    },
  )

  test.each([0, 99, 600, 999])('%i is no status of HTTP and settles nothing', (status) => {
    expect(judge(answer(status)).action).toBe('retry')
  })

  test.each(codes)('%s is tried again, with a sentence of its own', (code) => {
    const verdict = judge(failure(code))
    expect(verdict).toMatchObject({ action: 'retry', delayMs: 5 * SECOND, holdMs: null })
    expect(verdict).toHaveProperty('error', expect.stringMatching(/^[A-Z].*\.$/))
  })

  test('no two failures say the same', () => {
    const errors = codes.map((code) => {
      const verdict = judge(failure(code))
      return verdict.action === 'settle' ? '' : verdict.error
    })
    expect(new Set(errors).size).toBe(codes.length)
  })

  test('a failure names its code, for whoever looks it up', () => {
    expect(judge(failure('tls', 'CERT_HAS_EXPIRED'))).toHaveProperty(
      'error',
      expect.stringContaining('CERT_HAS_EXPIRED'),
    )
  })

  test('410 ends the subscription, at every attempt, and holds nothing', () => {
    for (const attempt of [1, maxAttempts, maxAttempts + 5])
      expect(judge(answer(410, '120'), { attempt })).toMatchObject({
        action: 'dead',
        reason: 'gone',
        disable: true,
        holdMs: null,
      })
  })

  test.each([429, 503])('%i with Retry-After holds the endpoint for exactly so long', (status) => {
    expect(judge(answer(status, '120'))).toMatchObject({ action: 'retry', delayMs: 120_000, holdMs: 120_000 })
    // Not less, and not the schedule's, when that is longer.
    expect(judge(answer(status, '1'), { attempt: 5 })).toMatchObject({ delayMs: SECOND, holdMs: SECOND })
  })

  test.each([
    [429, null],
    [503, 'soon'],
    [503, '0'],
    [429, '-5'],
  ])('%i with Retry-After %j keeps to the schedule', (status, text) => {
    expect(judge(answer(status, text))).toMatchObject({ action: 'retry', delayMs: 5 * SECOND, holdMs: null })
  })

  test.each([301, 404, 500, 502])('Retry-After with %i holds nothing', (status) => {
    expect(judge(answer(status, '120'))).toMatchObject({ delayMs: 5 * SECOND, holdMs: null })
  })

  test('the last attempt makes a dead letter, and a hold still holds', () => {
    const dead = { action: 'dead', reason: 'max_attempts', disable: false }
    for (const attempt of [maxAttempts, maxAttempts + 1]) {
      expect(judge(answer(500), { attempt })).toMatchObject({ ...dead, holdMs: null })
      expect(judge(failure('timeout'), { attempt })).toMatchObject({ ...dead, holdMs: null })
      expect(judge(answer(503, '60'), { attempt })).toMatchObject({ ...dead, holdMs: 60_000 })
    }
    expect(judge(answer(500), { attempt: maxAttempts - 1 }).action).toBe('retry')
    expect(judge(answer(500), { maxAttempts: 1 })).toMatchObject(dead)
  })

  test('whatever comes, only 2xx settles and only 410 disables', () => {
    const outcome = fc.oneof(
      fc.record({
        kind: fc.constant('answer' as const),
        status: fc.integer({ min: 0, max: 999 }),
        retryAfter: fc.option(fc.string()),
      }),
      fc.record({ kind: fc.constant('failure' as const), code: fc.constantFrom(...codes), detail: fc.string() }),
    )
    fc.assert(
      fc.property(outcome, fc.integer({ min: 1, max: 20 }), (each, attempt) => {
        const verdict = judge(each, { attempt })
        const status = each.kind === 'answer' ? each.status : 0
        expect(verdict.action === 'settle').toBe(status >= 200 && status < 300)
        expect(verdict.action === 'dead' && verdict.disable).toBe(status === 410)
        if (verdict.action === 'retry') expect(verdict.delayMs).toBeGreaterThan(0)
      }),
    )
  })
})

describe('the wait before the next attempt', () => {
  test('follows the schedule, and repeats its last', () => {
    const waits = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 999].map((attempt) => waitMs(defaultRetry, attempt, 0.5) / SECOND)
    expect(waits).toEqual([5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400, 86_400, 86_400])
  })

  test('grows by the factor up to the most', () => {
    const retry: Retry = { kind: 'backoff', baseMs: 1000, maxMs: 60_000, factor: 3 }
    expect([1, 2, 3, 4, 5, 1000].map((attempt) => waitMs(retry, attempt, 0.5))).toEqual([
      1000, 3000, 9000, 27_000, 60_000, 60_000,
    ])
    expect(waitMs({ ...retry, baseMs: 0, factor: 100 }, 1000, 0.5)).toBe(0)
    expect(waitMs({ ...retry, factor: 1 }, 1000, 0.5)).toBe(1000)
    // Slow growth goes on for as long as there are attempts.
    expect(waitMs({ kind: 'backoff', baseMs: 1000, maxMs: DAY, factor: 1.01 }, 301, 0.5)).toBeCloseTo(
      1000 * 1.01 ** 300,
      -1,
    )
  })

  test('is spread by a fifth either way', () => {
    const retry: Retry = { kind: 'schedule', scheduleMs: [10_000] }
    expect([0, 0.25, 0.5, 1].map((random) => waitMs(retry, 1, random))).toEqual([8000, 9000, 10_000, 12_000])
  })
})

describe('Retry-After', () => {
  test.each([
    ['1', SECOND],
    ['120', 120 * SECOND],
    [' 120 ', 120 * SECOND],
    ['007', 7 * SECOND],
    ['86400', DAY],
    // Longer than a day is a day.
    ['86401', DAY],
    ['31536000', DAY],
    ['9'.repeat(400), DAY],
    ['Sun, 06 Nov 1994 08:50:37 GMT', 60 * SECOND],
    ['Sunday, 06-Nov-94 08:50:37 GMT', 60 * SECOND],
    ['Sun Nov  6 08:50:37 1994', 60 * SECOND],
    ['Wed Nov 16 08:50:37 1994', DAY],
    ['Mon, 06 Nov 1995 08:49:37 GMT', DAY],
    // A leap second.
    ['Sun, 06 Nov 1994 08:49:60 GMT', 23 * SECOND],
  ])('%j asks for %i ms', (text, ms) => expect(retryAfterMs(text, then)).toBe(ms))

  test.each([
    null,
    '',
    ' ',
    '0',
    '-1',
    '+1',
    '1.5',
    '1e3',
    '0x10',
    '1s',
    '120, 120',
    'soon',
    'NaN',
    'Infinity',
    '1994-11-06T08:50:37Z',
    'Sun, 06 Nov 1994 08:49:37 GMT',
    'Sun, 06 Nov 1994 08:49:36 GMT',
    'Sun, 06 Nov 1994 08:50:37',
    'Sun, 06 Nov 1994 08:50:37 PST',
    'Sun, 06 Nov 1994 24:50:37 GMT',
    'Sun, 06 Nov 1994 08:60:37 GMT',
    'Sun, 06 Nov 1994 08:50:61 GMT',
    'Sun, 31 Nov 1994 08:50:37 GMT',
    'Sun, 00 Dec 1994 08:50:37 GMT',
    'Sun, 06 Foo 1994 08:50:37 GMT',
    'sun, 06 nov 1994 08:50:37 gmt',
    'Thu, 01 Jan 1970 00:00:00 GMT',
    'Sun Nov 6 08:50:37 1994',
  ])('%j is no time in the future', (text) => expect(retryAfterMs(text, then)).toBeNull())

  test('a year of two digits is not more than fifty years ahead', () => {
    const in2026 = Date.UTC(2026, 10, 21)
    expect(retryAfterMs('Sunday, 06-Nov-94 08:49:37 GMT', in2026)).toBeNull()
    expect(retryAfterMs('Sunday, 06-Nov-44 08:49:37 GMT', in2026)).toBe(DAY)
    expect(retryAfterMs('Saturday, 21-Nov-26 00:00:30 GMT', in2026)).toBe(30 * SECOND)
    // And at a turn of the century the next one is near.
    expect(retryAfterMs('Saturday, 01-Jan-00 00:00:30 GMT', Date.UTC(2000, 0, 1) - SECOND)).toBe(31 * SECOND)
  })

  test('any text gives null or up to a day', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.integer().map(String), fc.double().map(String)), (text) => {
        const ms = retryAfterMs(text, then)
        expect(ms === null || (ms > 0 && ms <= DAY)).toBe(true)
      }),
    )
  })
})
