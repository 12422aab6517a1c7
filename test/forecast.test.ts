/** What an autoscaler is told, and from what it is measured. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createHolds } from '../src/broker/holds.ts'
import type { Taken } from '../src/broker/lines.ts'
import { desiredConsumers, drainSeconds, serviceSeconds, type Work } from '../src/model/index.ts'

const nothing: Work = { receives: 0, received: 0, busyMs: 0 }
const plain = { targetAgeMs: 60_000, paused: false, maxLeased: null }

describe('desired consumers', () => {
  test('keep up with what comes in and work the backlog off within the target age', () => {
    // 0.5 s a message; 20/s come in and 600 wait: 20 + 10 messages a second.
    const work = { receives: 100, received: 100, busyMs: 50_000 }
    expect(desiredConsumers({ ready: 600, leased: 0, inRate: 20 }, work, plain)).toBe(15)
    expect(desiredConsumers({ ready: 600, leased: 0, inRate: 20 }, work, { ...plain, targetAgeMs: 10_000 })).toBe(40)
  })

  test('a consumer that takes ten at a time and works on them one by one needs no more time for each', () => {
    const single = { receives: 100, received: 100, busyMs: 50_000 }
    const batches = { receives: 10, received: 100, busyMs: 50_000 }
    const stats = { ready: 0, leased: 0, inRate: 20 }
    expect(desiredConsumers(stats, batches, plain)).toBe(desiredConsumers(stats, single, plain))
    expect(desiredConsumers({ ...stats, leased: 200 }, batches, plain)).toBe(20)
  })

  test('nobody for an empty queue, somebody to begin with, and whoever is busy stays', () => {
    expect(desiredConsumers({ ready: 0, leased: 0, inRate: 0 }, nothing, plain)).toBe(0)
    expect(desiredConsumers({ ready: 5000, leased: 0, inRate: 0 }, nothing, plain)).toBe(1)
    expect(desiredConsumers({ ready: 0, leased: 3, inRate: 0 }, nothing, plain)).toBe(3)
  })

  test('a paused queue asks for nobody but those who are still at work', () => {
    const paused = { ...plain, paused: true }
    expect(desiredConsumers({ ready: 900, leased: 0, inRate: 50 }, nothing, paused)).toBe(0)
    expect(desiredConsumers({ ready: 900, leased: 2, inRate: 50 }, nothing, paused)).toBe(2)
  })

  test('never more than may hold a lease', () => {
    const work = { receives: 1, received: 1, busyMs: 60_000 }
    expect(desiredConsumers({ ready: 900, leased: 0, inRate: 0 }, work, { ...plain, maxLeased: 4 })).toBe(4)
  })

  test('is a whole number, and more work never asks for fewer', () => {
    const count = fc.integer({ min: 0, max: 1_000_000 })
    fc.assert(
      fc.property(
        count,
        count,
        fc.double({ min: 0, max: 1e4, noNaN: true }),
        count,
        (ready, leased, inRate, busyMs) => {
          const work = { receives: 7, received: 40, busyMs }
          const some = desiredConsumers({ ready, leased, inRate }, work, plain)
          expect(Number.isSafeInteger(some)).toBe(true)
          expect(desiredConsumers({ ready: ready + 100, leased, inRate }, work, plain)).toBeGreaterThanOrEqual(some)
          expect(desiredConsumers({ ready, leased: leased + 10, inRate }, work, plain)).toBeGreaterThanOrEqual(some)
        },
      ),
    )
  })
})

test('a queue drains at the difference of its rates, or not', () => {
  expect([drainSeconds(100, 1, 3), drainSeconds(0, 5, 0), drainSeconds(100, 3, 3)]).toEqual([50, 0, null])
})

describe('measuring', () => {
  let clockMs = 0
  const total = (): [ReturnType<typeof createHolds>, Work] => {
    const work = { ...nothing }
    const holds = createHolds(
      (_queueId, part) => {
        for (const name of ['receives', 'received', 'busyMs'] as const) work[name] += part[name]
      },
      { most: 10, nowMs: () => clockMs },
    )
    return [holds, work]
  }
  const row = (position: number, token: number, queueId = 1): Taken =>
    ({ token, row: { queue_id: queueId, lane: 9, position, leased_until_ms: 31_000 } }) as Taken
  const lease = (position: number, token: number, queueId = 1) => ({ queueId, lane: 9, position, token })

  test('one by one or all at the end: the same time for each message', () => {
    const [one, oneByOne] = total()
    const [all, together] = total()
    for (const holds of [one, all]) holds.taken([row(1, 9), row(2, 9), row(3, 9), row(4, 9)], 'key_a', 30_000)
    for (const position of [1, 2, 3, 4]) {
      clockMs += 250
      one.ended([lease(position, 9)], true)
    }
    all.ended(
      [1, 2, 3, 4].map((position) => lease(position, 9)),
      true,
    )
    expect(oneByOne).toEqual({ receives: 1, received: 4, busyMs: 1000 })
    expect(together).toEqual(oneByOne)
    expect(serviceSeconds(together)).toBe(0.25)
  })

  test('what the consumer settles through another gateway does not make it look slower', () => {
    const [holds, work] = total()
    holds.taken([row(1, 9), row(2, 9)], 'key_a', 30_000)
    clockMs += 500
    holds.ended([lease(2, 9)], true)
    expect(serviceSeconds(work)).toBe(0.25)
  })

  test('what was given back untouched, and what is not known, is no measurement', () => {
    const [holds, work] = total()
    holds.taken([row(1, 9)], 'key_a', 30_000)
    holds.ended([lease(1, 9)], false)
    holds.ended([lease(1, 9), lease(5, 77)], true)
    expect(work).toEqual(nothing)
  })

  test('who holds a lease is known by the token, to the receive, until it ends', () => {
    const [holds] = total()
    holds.taken([row(1, 9), row(2, 9)], 'key_a', 30_000)
    holds.taken([row(3, 9)], 'key_b', 30_000)
    holds.taken([row(1, 9, 2)], '#4', 30_000)
    expect(holds.find(lease(2, 9))).toEqual({ by: 'key_a', leasedAtMs: 1000 })
    expect(holds.find(lease(3, 9))?.by).toBe('key_b')
    expect(holds.find(lease(1, 9, 2))?.by).toBe('#4')
    expect([holds.find(lease(2, 8)), holds.find(lease(4, 9))]).toEqual([null, null])
    holds.ended([lease(1, 9), lease(2, 9), lease(3, 9)], true)
    expect(holds.find(lease(1, 9, 2))?.by).toBe('#4')
    holds.ended([lease(1, 9, 2)], true)
    expect(holds.find(lease(1, 9, 2))).toBeNull()
  })

  test('a receive that is retried holds what it held', () => {
    const [holds] = total()
    holds.taken([row(1, 9)], 'key_a', 30_000)
    holds.taken([row(1, 9)], 'key_a', 5_000)
    expect(holds.find(lease(1, 9))).toEqual({ by: 'key_a', leasedAtMs: 1000 })
  })

  test('what may have been settled elsewhere is doubted, the oldest first, each in its turn; what is left is still known', () => {
    const [holds, work] = total()
    for (const token of [1, 2, 3]) holds.taken([row(1, token), row(2, token)], `key_${token}`, 30_000)
    expect(holds.doubtful(10)).toEqual([])
    clockMs += 11_000
    holds.taken([row(1, 4)], 'key_4', 30_000)
    expect(holds.doubtful(1)).toEqual([lease(1, 1), lease(2, 1)])
    expect(holds.doubtful(3)).toEqual([lease(1, 2), lease(2, 2), lease(1, 3), lease(2, 3)])
    holds.ended([lease(1, 2), lease(1, 2), lease(1, 1), lease(2, 1)], false)
    expect([holds.find(lease(1, 2)), holds.find(lease(2, 2))?.by, holds.find(lease(2, 1))]).toEqual([
      null,
      'key_2',
      null,
    ])
    expect(work).toEqual(nothing)
  })

  test('memory is bounded: the oldest are forgotten', () => {
    const [holds] = total()
    for (let token = 1; token <= 40; token++) holds.taken([row(1, token)], 'key_a', 30_000)
    expect(holds.find(lease(1, 30))).toBeNull()
    expect(holds.find(lease(1, 31))).not.toBeNull()
  })
})
