/** When schedules fire: what the fields mean, and what happens when the clocks change. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Cron, fireVerdict, firstFire, nextFire, nextFires, parseCron, timezoneError } from '../src/model/index.ts'

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour
const at = (text: string) => Date.parse(text)

function cronOf(text: string): Cron {
  const parsed = parseCron(text)
  if ('error' in parsed) throw new Error(`${text}: ${parsed.error}`)
  return parsed.cron
}

/** The next fires after a time, as UTC without what is zero. */
const fires = (text: string, timezone: string, after: string, count: number): string[] =>
  nextFires(cronOf(text), timezone, at(after), count).map((ms) =>
    new Date(ms).toISOString().replace(/(:00)?\.000Z$/, 'Z'),
  )

describe('fields', () => {
  test.each<[string, string[]]>([
    ['* * * * *', ['2026-01-01T00:01Z', '2026-01-01T00:02Z']],
    ['*/20 * * * *', ['2026-01-01T00:20Z', '2026-01-01T00:40Z', '2026-01-01T01:00Z']],
    ['5-7,50 3 * * *', ['2026-01-01T03:05Z', '2026-01-01T03:06Z', '2026-01-01T03:07Z', '2026-01-01T03:50Z']],
    ['10-40/15 0 * * *', ['2026-01-01T00:10Z', '2026-01-01T00:25Z', '2026-01-01T00:40Z', '2026-01-02T00:10Z']],
    ['50/4 0 * * *', ['2026-01-01T00:50Z', '2026-01-01T00:54Z', '2026-01-01T00:58Z', '2026-01-02T00:50Z']],
    ['*/15 * * * * *', ['2026-01-01T00:00:15Z', '2026-01-01T00:00:30Z', '2026-01-01T00:00:45Z', '2026-01-01T00:01Z']],
    ['30 59 23 31 12 *', ['2026-12-31T23:59:30Z', '2027-12-31T23:59:30Z']],
    ['0 9 * * MON-FRI', ['2026-01-01T09:00Z', '2026-01-02T09:00Z', '2026-01-05T09:00Z']],
    ['0 9 * * fri-sun', ['2026-01-02T09:00Z', '2026-01-03T09:00Z', '2026-01-04T09:00Z', '2026-01-09T09:00Z']],
    ['0 9 * * 7', ['2026-01-04T09:00Z', '2026-01-11T09:00Z']],
    ['0 9 * * 0', ['2026-01-04T09:00Z', '2026-01-11T09:00Z']],
    ['0 0 1 FEB,jun *', ['2026-02-01T00:00Z', '2026-06-01T00:00Z', '2027-02-01T00:00Z']],
    ['0 0 31 * *', ['2026-01-31T00:00Z', '2026-03-31T00:00Z', '2026-05-31T00:00Z']],
    ['0 0 29 2 *', ['2028-02-29T00:00Z', '2032-02-29T00:00Z']],
    ['@hourly', ['2026-01-01T01:00Z', '2026-01-01T02:00Z']],
    ['@daily', ['2026-01-02T00:00Z']],
    ['@weekly', ['2026-01-04T00:00Z']],
    ['@monthly', ['2026-02-01T00:00Z']],
    ['@yearly', ['2027-01-01T00:00Z']],
    ['@every 90s', ['2026-01-01T00:01:30Z', '2026-01-01T00:03Z']],
    [' 0\t12  * * * ', ['2026-01-01T12:00Z']],
  ])('%s', (text, expected) => {
    expect(fires(text, 'UTC', '2026-01-01T00:00:00Z', expected.length)).toEqual(expected)
  })

  test('when both day fields are restricted, one of them is enough; a star with steps restricts nothing', () => {
    expect(fires('0 0 13 * FRI', 'UTC', '2026-03-01T00:00:00Z', 4)).toEqual(
      ['2026-03-06T00:00Z', '2026-03-13T00:00Z', '2026-03-20T00:00Z', '2026-03-27T00:00Z'], //
    )
    expect(fires('0 0 */2 * MON', 'UTC', '2026-03-01T00:00:00Z', 2)).toEqual(['2026-03-09T00:00Z', '2026-03-23T00:00Z'])
  })

  test('29 February is found over a century without one; 30 February never comes', () => {
    expect(fires('0 0 29 2 *', 'UTC', '2096-02-29T00:00:00Z', 1)).toEqual(['2104-02-29T00:00Z'])
    for (const zone of ['UTC', 'Europe/Berlin']) {
      expect(nextFire(cronOf('0 0 30 2 *'), zone, at('2026-01-01T00:00:00Z'))).toBeNull()
      expect(nextFire(cronOf('* * 31 4,6 *'), zone, at('2026-01-01T00:00:00Z'))).toBeNull()
    }
  })

  test.each([
    '',
    '* * * *',
    '* * * * * * *',
    '60 * * * *',
    '-1 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '* * 32 * *',
    '* * * 13 *',
    '* * * * 8',
    '* * * JANUARY *',
    '* * * MON *',
    '5-3 * * * *',
    '1-2-3 * * * *',
    '*/0 * * * *',
    '*/61 * * * *',
    '*/ * * * *',
    '/5 * * * *',
    '1,,2 * * * *',
    ', * * * *',
    '1.5 * * * *',
    '* * L * *',
    '* * ? * *',
    '* * * * 5#2',
    '* * * *\n*',
    '@reboot',
    '@hourly *',
    '@every',
    '@every 999ms',
    '@every 11y',
    '@every 4000d',
    '@every 1s 2s',
    '@constructor',
    'toString * * * *',
    'é * * * *',
    `${'0,'.repeat(200)}0 * * * *`,
  ])('%j is refused with a reason', (text) => {
    expect(parseCron(text)).toEqual({ error: expect.stringMatching(/^\S.+/) })
  })

  test('only IANA time zones are known', () => {
    for (const zone of [
      'UTC',
      'Etc/UTC',
      'Europe/Berlin',
      'America/Argentina/Buenos_Aires',
      'Etc/GMT+5',
      'Asia/Kolkata',
    ])
      expect(timezoneError(zone), zone).toBeNull()
    for (const zone of ['', 'Mars/Olympus', '+02:00', 'Europe/Berlin ', 'x'.repeat(100), '../etc/passwd', 'é'])
      expect(timezoneError(zone), zone).not.toBeNull()
    expect(nextFire(cronOf('* * * * *'), 'Mars/Olympus', 0)).toBeNull()
  })
})

describe('on the two changes of a year', () => {
  // Berlin 2026: 29 March 02:00 > 03:00, 25 October 03:00 > 02:00. New York: 8 March, 1 November. Lord Howe, by half an hour: 5 April
  // 02:00 > 01:30, 4 October 02:00 > 02:30.
  test.each<[string, string, string, string, string[]]>([
    [
      'a skipped time fires once, at the first moment after the gap',
      '30 2 * * *',
      'Europe/Berlin',
      '2026-03-28T00:00:00Z',
      ['2026-03-28T01:30Z', '2026-03-29T01:00Z', '2026-03-30T00:30Z'],
    ],
    [
      'several skipped times fire once together',
      '*/10 2 * * *',
      'America/New_York',
      '2026-03-08T06:59:00Z',
      ['2026-03-08T07:00Z', '2026-03-09T06:00Z', '2026-03-09T06:10Z'],
    ],
    [
      'a skipped time and the one after the gap are one fire',
      '0,30 2,3 * * *',
      'Europe/Berlin',
      '2026-03-29T00:00:00Z',
      ['2026-03-29T01:00Z', '2026-03-29T01:30Z', '2026-03-30T00:00Z'],
    ],
    [
      'a time that comes twice fires the first time',
      '30 2 * * *',
      'Europe/Berlin',
      '2026-10-24T12:00:00Z',
      ['2026-10-25T00:30Z', '2026-10-26T01:30Z'],
    ],
    [
      'between the two it does not fire',
      '30 1 * * *',
      'America/New_York',
      '2026-11-01T05:45:00Z',
      ['2026-11-02T06:30Z'],
    ],
    [
      'every other hour, no hour is lost',
      '0 */2 * * *',
      'Europe/Berlin',
      '2026-03-28T22:00:00Z',
      ['2026-03-28T23:00Z', '2026-03-29T01:00Z', '2026-03-29T02:00Z'],
    ],
    [
      'every other hour, none is doubled',
      '0 */2 * * *',
      'Europe/Berlin',
      '2026-10-24T22:30:00Z',
      ['2026-10-25T00:00Z', '2026-10-25T03:00Z'],
    ],
    [
      'every hour follows real time in spring',
      '15 * * * *',
      'Europe/Berlin',
      '2026-03-29T00:00:00Z',
      ['2026-03-29T00:15Z', '2026-03-29T01:15Z', '2026-03-29T02:15Z'],
    ],
    [
      'every hour follows real time in autumn',
      '15 * * * *',
      'Europe/Berlin',
      '2026-10-24T23:30:00Z',
      ['2026-10-25T00:15Z', '2026-10-25T01:15Z', '2026-10-25T02:15Z'],
    ],
    [
      'every half hour follows real time in autumn',
      '*/30 * * * *',
      'America/New_York',
      '2026-11-01T05:10:00Z',
      ['2026-11-01T05:30Z', '2026-11-01T06:00Z', '2026-11-01T06:30Z'],
    ],
    [
      'half an hour is skipped',
      '10 2 * * *',
      'Australia/Lord_Howe',
      '2026-10-03T10:00:00Z',
      ['2026-10-03T15:30Z', '2026-10-04T15:10Z'],
    ],
    [
      'half an hour comes twice',
      '45 1 * * *',
      'Australia/Lord_Howe',
      '2026-04-04T10:00:00Z',
      ['2026-04-04T14:45Z', '2026-04-05T15:15Z'],
    ],
    [
      'a midnight that is skipped',
      '@daily',
      'Africa/Cairo',
      '2026-04-23T00:00:00Z',
      ['2026-04-23T22:00Z', '2026-04-24T21:00Z'],
    ],
    [
      '@every does not look at the clock',
      '@every 1h',
      'Europe/Berlin',
      '2026-03-28T23:30:00Z',
      ['2026-03-29T00:30Z', '2026-03-29T01:30Z', '2026-03-29T02:30Z'],
    ],
  ])('%s: %s in %s', (_rule, text, zone, after, expected) => {
    expect(fires(text, zone, after, expected.length)).toEqual(expected)
  })

  /** What a clock shows from minute to minute. */
  function clock(zone: string, fromMs: number, toMs: number) {
    const format = new Intl.DateTimeFormat('en-US', {
      timeZone: zone,
      dateStyle: 'short',
      timeStyle: 'short',
      hour12: false,
    })
    const shown: { atMs: number; wallMs: number }[] = []
    for (let atMs = fromMs; atMs < toMs; atMs += minute) {
      const [month = 0, date = 0, year = 0, hours = 0, minutes = 0] =
        format.format(atMs).match(/\d+/g)?.map(Number) ?? []
      shown.push({ atMs, wallMs: Date.UTC(2000 + year, month - 1, date, hours % 24, minutes) })
    }
    return shown
  }

  type Entry = { minutes: number[]; hours: number[]; days: number[] | null; weekdays: number[] | null }
  const some = (min: number, max: number) => fc.uniqueArray(fc.integer({ min, max }), { minLength: 1, maxLength: 4 })
  const often = (values: fc.Arbitrary<number[]>, all: number[]) => fc.oneof(values, fc.constant(all))
  const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)
  const entries: fc.Arbitrary<Entry> = fc.record({
    minutes: often(some(0, 59), upTo(60)),
    hours: often(fc.oneof(some(0, 4), some(0, 23)), upTo(24)),
    days: fc.option(some(1, 31)),
    weekdays: fc.option(some(0, 6)),
  })
  const textOf = ({ minutes, hours, days, weekdays }: Entry) =>
    `${minutes.join()} ${hours.join()} ${days?.join() ?? '*'} * ${weekdays?.join() ?? '*'}`

  /** A watchman: looks at the clock each minute, and remembers how late it has been. */
  function watch({ minutes, hours, days, weekdays }: Entry, shown: ReturnType<typeof clock>): number[] {
    const matches = (wallMs: number) => {
      const date = new Date(wallMs)
      const inMonth = days?.includes(date.getUTCDate())
      const inWeek = weekdays?.includes(date.getUTCDay())
      const isDay = days && weekdays ? inMonth || inWeek : (inMonth ?? inWeek ?? true)
      return isDay && minutes.includes(date.getUTCMinutes()) && hours.includes(date.getUTCHours())
    }
    const found: number[] = []
    let latestMs = (shown[0]?.wallMs ?? 0) - minute
    for (const { atMs, wallMs } of shown) {
      let fires = hours.length === 24 && matches(wallMs)
      for (; latestMs < wallMs; latestMs += minute) fires ||= hours.length < 24 && matches(latestMs + minute)
      if (fires) found.push(atMs)
    }
    return found
  }

  const zones: [string, string][] = [
    ['Europe/Berlin', '2026-03-29'],
    ['Europe/Berlin', '2026-10-25'],
    ['America/New_York', '2026-03-08'],
    ['America/New_York', '2026-11-01'],
    ['Australia/Lord_Howe', '2026-04-05'],
    ['Australia/Lord_Howe', '2026-10-04'],
    ['Africa/Cairo', '2026-04-24'],
    ['Asia/Kolkata', '2026-03-29'],
    ['UTC', '2026-10-25'],
  ]
  test.each(zones)('%s around %s, entries fire as somebody would who watched the clock', (zone, date) => {
    const fromMs = at(`${date}T00:00:00Z`) - 2 * day
    const shown = clock(zone, fromMs, fromMs + 4 * day)
    fc.assert(
      fc.property(entries, fc.integer({ min: 0, max: 4 * 1440 - 1 }), (entry, start) => {
        const afterMs = fromMs + start * minute
        const expected = watch(entry, shown).filter((ms) => ms > afterMs)
        const cron = cronOf(textOf(entry))
        const found = nextFires(cron, zone, afterMs, expected.length + 1)
        expect(found.filter((ms) => ms < fromMs + 4 * day)).toEqual(expected)
      }),
      { numRuns: 150 },
    )
  })
})

describe('a fire that comes late', () => {
  const due = at('2026-01-01T12:00:00Z')
  const verdict = (text: string, misfire: 'skip' | 'once', lateMs: number) =>
    fireVerdict({ cron: cronOf(text), timezone: 'UTC', misfire }, due, due + lateMs)

  test('up to a minute happens all the same, and so do those after it', () => {
    for (const misfire of ['skip', 'once'] as const) {
      expect(verdict('0 12 * * *', misfire, 60_000)).toEqual({ fires: true, nextMs: due + day })
      expect(verdict('@every 1s', misfire, 30_000)).toEqual({ fires: true, nextMs: due + 1000 })
    }
  })

  test('skip forgets one that is later, and goes on with the first that is not', () => {
    expect(verdict('0 12 * * *', 'skip', 60_001)).toEqual({ fires: false, nextMs: due + day })
    expect(verdict('* * * * *', 'skip', hour + 20_000)).toEqual({ fires: false, nextMs: due + hour })
    expect(verdict('@every 7m', 'skip', hour)).toEqual({ fires: false, nextMs: due + 63 * minute })
  })

  test('once sends one for all that are later, then those of the last minute; @every stays in step', () => {
    expect(verdict('0 12 * * *', 'once', 3 * day)).toEqual({ fires: true, nextMs: due + 3 * day })
    expect(verdict('0 12 * * *', 'once', 3 * day + minute + 1)).toEqual({ fires: true, nextMs: due + 4 * day })
    expect(verdict('* * * * *', 'once', hour + 20_000)).toEqual({ fires: true, nextMs: due + hour })
    expect(verdict('@every 7m', 'once', hour)).toEqual({ fires: true, nextMs: due + 63 * minute })
    expect(verdict('@every 7m', 'once', 63 * minute)).toEqual({ fires: true, nextMs: due + 63 * minute })
  })

  test('once sends whatever skip sends, and one more when any was missed', () => {
    // No time passes while a gateway catches up.
    const sentFor = (text: string, misfire: 'skip' | 'once', lateMs: number): number[] => {
      const sent: number[] = []
      for (let dueMs: number | null = due; dueMs !== null && dueMs <= due + lateMs; ) {
        const { fires, nextMs } = fireVerdict({ cron: cronOf(text), timezone: 'UTC', misfire }, dueMs, due + lateMs)
        if (fires) sent.push(dueMs)
        dueMs = nextMs
      }
      return sent
    }
    fc.assert(
      fc.property(
        fc.constantFrom('@every 1s', '@every 7s', '@every 50s', '@every 2m', '*/10 * * * * *', '* * * * *'),
        fc.integer({ min: 0, max: 2 * hour }),
        (text, lateMs) => {
          const some = sentFor(text, 'skip', lateMs)
          expect(some).toEqual(some.filter((ms) => ms >= due + lateMs - minute))
          expect(sentFor(text, 'once', lateMs)).toEqual(lateMs > minute ? [due, ...some] : some)
        },
      ),
    )
  })
})

test('what is put again unchanged keeps its next fire; what is changed or was paused gets a new one', () => {
  const nowMs = at('2026-01-01T00:00:00Z')
  const given = { cron: '@every 5m', timezone: 'UTC' }
  const first = (before: Parameters<typeof firstFire>[2]) => firstFire(cronOf(given.cron), given, before, nowMs)
  expect(first(null)).toBe(nowMs + 5 * minute)
  expect(first({ ...given, nextFireAt: new Date(nowMs + 1) })).toBe(nowMs + 1)
  expect(first({ ...given, nextFireAt: null })).toBe(nowMs + 5 * minute)
  expect(first({ ...given, cron: '@every 4m', nextFireAt: new Date(nowMs + 1) })).toBe(nowMs + 5 * minute)
  expect(first({ ...given, timezone: 'Asia/Tokyo', nextFireAt: new Date(nowMs + 1) })).toBe(nowMs + 5 * minute)
})
