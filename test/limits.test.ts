/** What bounds the work that waits: token buckets, budgets, and how long and how much a batch lets wait. */
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type BatchOptions, batch, budget, limiter, turns } from '../src/base/index.ts'
import { formatRate, parseRate } from '../src/model/index.ts'
import { waitFor } from './support/wait.ts'

describe('a limiter', () => {
  const rates = fc.record({ count: fc.integer({ min: 1, max: 5000 }), perMs: fc.constantFrom(1000, 60_000, 3_600_000) })

  test('lets through what the rate and one burst allow, over any stretch of time, and that much to whoever asks often', () => {
    fc.assert(
      fc.property(
        rates,
        fc.array(fc.integer({ min: 0, max: 3000 }), { minLength: 1, maxLength: 200 }),
        (rate, gaps) => {
          const { take } = limiter(10)
          const burst = Math.max(1, Math.floor((rate.count * 1000) / rate.perMs))
          let nowMs = 0
          let allowed = 0
          for (const gap of gaps) {
            nowMs += gap
            for (let n = 0; n < burst + 1; n++) if (take('a', rate, nowMs).allowed) allowed++
          }
          const most = burst + ((nowMs - (gaps[0] ?? 0)) * rate.count) / rate.perMs
          expect(allowed).toBeLessThanOrEqual(most + 1e-3)
          expect(allowed).toBeGreaterThanOrEqual(burst)
        },
      ),
    )
  })

  test('who waits as long as it is told is let through, and not before', () => {
    fc.assert(
      fc.property(rates, (rate) => {
        const { take } = limiter(10)
        while (take('a', rate, 0).allowed);
        const { waitMs } = take('a', rate, 0)
        expect(take('a', rate, waitMs * 0.99).allowed).toBe(false)
        expect(take('a', rate, waitMs * 1.001).allowed).toBe(true)
      }),
    )
  })

  test('says what is left, and when all of it is back', () => {
    const { take } = limiter(10)
    const rate = { count: 10, perMs: 1000 }
    expect(take('a', rate, 0)).toMatchObject({ allowed: true, remaining: 9, waitMs: 0, wholeMs: 100 })
    for (let n = 8; n >= 0; n--) expect(take('a', rate, 0)).toMatchObject({ allowed: true, remaining: n })
    expect(take('a', rate, 0)).toMatchObject({ allowed: false, remaining: 0, wholeMs: 1000 })
    expect(take('b', rate, 0)).toMatchObject({ allowed: true, remaining: 9 })
    expect(take('a', rate, 50_000)).toMatchObject({ allowed: true, remaining: 9 })
  })

  test('what is given back may be taken again, and never comes to more than the burst', () => {
    const { take, give } = limiter(10)
    const rate = { count: 2, perMs: 1000 }
    for (let n = 0; n < 2; n++) take('a', rate, 0)
    give('a', rate)
    expect(take('a', rate, 0).allowed).toBe(true)
    expect(take('a', rate, 0).allowed).toBe(false)
    for (let n = 0; n < 9; n++) give('a', rate)
    give('unknown', rate)
    expect(take('a', rate, 0)).toMatchObject({ allowed: true, remaining: 1 })
  })

  test('a rate under one a second allows one at once', () => {
    const { take } = limiter(10)
    const rate = { count: 1, perMs: 60_000 }
    expect(take('a', rate, 0).allowed).toBe(true)
    expect(take('a', rate, 59_000)).toMatchObject({ allowed: false, waitMs: expect.closeTo(1000, 0) })
    expect(take('a', rate, 60_000).allowed).toBe(true)
  })

  test('a clock that jumps back gives nothing away', () => {
    const { take } = limiter(10)
    const rate = { count: 1, perMs: 1000 }
    expect(take('a', rate, 10_000).allowed).toBe(true)
    expect(take('a', rate, 0).allowed).toBe(false)
    expect(take('a', rate, 10_500).allowed).toBe(false)
  })

  test('remembers only the names seen last', () => {
    const { take } = limiter(2)
    const rate = { count: 1, perMs: 1000 }
    for (const name of ['a', 'b', 'c']) expect(take(name, rate, 0).allowed).toBe(true)
    expect(take('c', rate, 0).allowed).toBe(false)
    expect(take('a', rate, 0).allowed).toBe(true)
  })
})

test.each(['1/s', '600/m', '5000/h', '999999/s'])('the rate %s is read and written', (text) => {
  const rate = parseRate(text)
  expect(rate && formatRate(rate)).toBe(text)
})

test.each(['', '0/s', '1', '1/d', '01/s', '1000000/s', '-1/s', '1.5/s', '10 /s', '10/s '])('%j is no rate', (text) => {
  expect(parseRate(text)).toBeNull()
})

test('a budget never holds more than its sum, but for one that is alone', () => {
  const { take, give } = budget(10)
  expect(take(100)).toBe(true)
  expect(take(1)).toBe(false)
  give(100)
  expect([take(6), take(4), take(1)]).toEqual([true, true, false])
  give(6)
  expect(take(6)).toBe(true)
})

describe('a batch whose runs hang', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  const options: BatchOptions<string> = {
    lanes: 1,
    maxWeight: 1,
    weigh: (item) => item.length,
    maxWaiting: 3,
    maxWaitMs: 5000,
    overloaded: () => new Error('overloaded'),
    harmless: () => false,
  }

  /** A batch whose first run is under way and stays so until `goOn`. */
  async function hanging() {
    const runs: string[][] = []
    let goOn: (() => void) | undefined
    const until = new Promise<void>((resolve) => {
      goOn = resolve
    })
    const add = batch<string, string>(async (items) => {
      runs.push([...items])
      await until
      return [...items]
    }, options)
    const first = add('x')
    await vi.advanceTimersByTimeAsync(1)
    return { runs, add, first, goOn: () => goOn?.() }
  }

  test('refuses at once what exceeds the weight that may wait', async () => {
    const { add } = await hanging()
    void add('aa').catch(() => {})
    await expect(add('bb')).rejects.toThrow('overloaded')
    const fits = add('c')
    void fits.catch(() => {})
    await expect(add('d')).rejects.toThrow('overloaded')
  })

  test('refuses who has waited too long for a run, oldest first, and never runs it; what is refused makes room', async () => {
    const { add, runs, first, goOn } = await hanging()
    const early = add('e').catch((error: Error) => error.message)
    await vi.advanceTimersByTimeAsync(3000)
    const late = add('ll')
    await expect(add('no')).rejects.toThrow('overloaded')
    await vi.advanceTimersByTimeAsync(2001)
    expect(await early).toBe('overloaded')
    const next = add('n')
    goOn()
    expect(await Promise.all([first, late, next])).toEqual(['x', 'll', 'n'])
    expect(runs).toEqual([['x'], ['ll'], ['n']])
  })

  test('a single item that is heavier than all that may wait is taken when nothing waits', async () => {
    const { add, first, goOn } = await hanging()
    const heavy = add('heavy item')
    goOn()
    expect(await Promise.all([first, heavy])).toEqual(['x', 'heavy item'])
  })
})

test('turns: so many work at a time, the others in the order they came; one that fails makes room all the same', async () => {
  const inTurn = turns(2)
  const begun: number[] = []
  const ends: (() => void)[] = []
  const all = Array.from({ length: 5 }, (_, n) =>
    inTurn(async () => {
      begun.push(n)
      await new Promise<void>((resolve) => void ends.push(resolve))
      if (n === 1) throw new Error('fails')
      return n
    }).catch((error: Error) => error.message),
  )
  expect(begun).toEqual([0, 1])
  for (let n = 0; n < 5; n++) {
    await waitFor(() => expect(ends.length).toBeGreaterThan(n))
    expect(begun.length).toBeLessThanOrEqual(n + 2)
    ends[n]?.()
  }
  expect(await Promise.all(all)).toEqual([0, 'fails', 2, 3, 4])
  expect(begun).toEqual([0, 1, 2, 3, 4])
})
