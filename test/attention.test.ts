/** How soon others are told what became ready in a queue, by what they have said about it. */
import { expect, test } from 'vitest'
import { createAttention, heldMs, sayEveryMs, waitsMs } from '../src/broker/attention.ts'

function attentionAt(): { attention: ReturnType<typeof createAttention>; clock: { ms: number } } {
  const clock = { ms: 1_000_000 }
  return { attention: createAttention(() => clock.ms), clock }
}

test('where somebody waits it is told sooner than where somebody looked, and there sooner than elsewhere', () => {
  const { attention } = attentionAt()
  attention.heard('looked', 1)
  attention.heard('looked', 2)
  attention.heard('waits', 2)
  expect(attention.withinMs(2)).toBe(waitsMs)
  expect(attention.withinMs(1)).toBeGreaterThan(waitsMs)
  expect(attention.withinMs(3)).toBeGreaterThan(attention.withinMs(1))
})

test('what was said holds for a while, and is said again before that is over', () => {
  const { attention, clock } = attentionAt()
  const never = attention.withinMs(1)
  attention.heard('waits', 1)
  clock.ms += heldMs - 1
  attention.forgetOld()
  expect(attention.withinMs(1)).toBe(waitsMs)
  clock.ms += 1
  expect(attention.withinMs(1)).toBe(never)

  expect(attention.isToBeSaid('waits', 1)).toBe(true)
  expect(attention.isToBeSaid('waits', 1)).toBe(false)
  expect(attention.isToBeSaid('looked', 1)).toBe(true)
  expect(attention.isToBeSaid('waits', 2)).toBe(true)
  clock.ms += sayEveryMs - 1
  attention.forgetOld()
  expect(attention.isToBeSaid('waits', 1)).toBe(false)
  clock.ms += 1
  attention.forgetOld()
  expect(attention.isToBeSaid('waits', 1)).toBe(true)
  // One word may be lost.
  expect(2 * sayEveryMs).toBeLessThan(heldMs)
})
