/** What workers report leaves together: at once what others wait for, a little later what nobody does. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { SettleAction } from '../src/model/index.ts'
import { createGathered } from '../src/push/gather.ts'

// Time passes when it is told to, however busy the machine is.
beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const ack = (receipt: string): SettleAction => ({ action: 'ack', receipt })

function gathering() {
  const settles: string[][] = []
  const gathered = createGathered({
    broker: {
      async settle(actions) {
        settles.push(actions.map(({ receipt }) => receipt))
        return []
      },
      desk: { recordAttempts: async () => [] } as never,
    },
    log: () => {},
  })
  return { gathered, settles }
}

test('what somebody waits for is settled with those of the same moment', async () => {
  const { gathered, settles } = gathering()
  const all = Promise.all(['a', 'b', 'c'].map((receipt) => gathered.settle(ack(receipt), false)))
  await turn()
  await turn()
  expect(settles).toEqual([['a', 'b', 'c']])
  await all
})

test('patient ones wait for each other, not for ever, and not for more than make a good statement', async () => {
  const { gathered, settles } = gathering()
  const first = gathered.settle(ack('first'), true)
  await turn()
  await turn()
  expect(settles).toEqual([])
  const second = gathered.settle(ack('second'), true)
  await gathered.settle(ack('urgent'), false)
  expect(settles).toEqual([['urgent']])
  await vi.advanceTimersByTimeAsync(20)
  await Promise.all([first, second])
  expect(settles).toEqual([['urgent'], ['first', 'second']])

  const many = Array.from({ length: 64 }, (_, at) => gathered.settle(ack(String(at)), true))
  await turn()
  await turn()
  expect(settles[2]).toHaveLength(64)
  await Promise.all(many)
})
