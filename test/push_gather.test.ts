/** What workers report leaves together: at once what others wait for, a little later what nobody does. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { AttemptReport } from '../src/broker/index.ts'
import type { SettleAction } from '../src/model/index.ts'
import { createGathered } from '../src/push/gather.ts'

// Time passes when it is told to, however busy the machine is.
beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const ack = (receipt: string): SettleAction => ({ action: 'ack', receipt })

function gathering() {
  const settles: string[][] = []
  const records: { messages: string[]; done(): void }[] = []
  const gathered = createGathered({
    broker: {
      async settle(actions) {
        settles.push(actions.map(({ receipt }) => receipt))
        return []
      },
      desk: {
        recordAttempts: (attempts: AttemptReport[]) =>
          new Promise((resolve) => {
            records.push({ messages: attempts.map(({ messageId }) => messageId), done: () => resolve([]) })
          }),
      } as never,
    },
    log: () => {},
  })
  const record = (...messages: string[]) => {
    for (const messageId of messages) gathered.record({ messageId } as AttemptReport)
  }
  return { gathered, settles, record, records }
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

test('what is recorded while a statement is under way gathers as long as what came before it', async () => {
  const { record, records } = gathering()
  record('1', '2')
  await vi.advanceTimersByTimeAsync(24)
  expect(records).toEqual([])
  await vi.advanceTimersByTimeAsync(2)
  record('3')
  records[0]?.done()
  await vi.advanceTimersByTimeAsync(10)
  record('4')
  expect(records.map(({ messages }) => messages)).toEqual([['1', '2']])
  await vi.advanceTimersByTimeAsync(20)
  expect(records.map(({ messages }) => messages)).toEqual([
    ['1', '2'],
    ['3', '4'],
  ])
})

test('a full statement does not wait, and not more than one is under way', async () => {
  const { record, records } = gathering()
  record(...Array.from({ length: 1200 }, (_, at) => String(at)))
  expect(records.map(({ messages }) => messages.length)).toEqual([500])
  records[0]?.done()
  await vi.advanceTimersByTimeAsync(0)
  expect(records.map(({ messages }) => messages.length)).toEqual([500, 500])
  records[1]?.done()
  await vi.advanceTimersByTimeAsync(30)
  expect(records[2]?.messages).toHaveLength(200)
})

test('a flush writes what is under way and what waits, and does not wait for what comes meanwhile', async () => {
  const { gathered, record, records } = gathering()
  record(...Array.from({ length: 501 }, (_, at) => String(at)))
  let flushed = false
  const flushing = gathered.flush().then(() => {
    flushed = true
  })
  records[0]?.done()
  await vi.advanceTimersByTimeAsync(0)
  expect(records.map(({ messages }) => messages.length)).toEqual([500, 1])
  record('late')
  expect(flushed).toBe(false)
  records[1]?.done()
  // Others may never stop recording.
  await flushing
  await vi.advanceTimersByTimeAsync(30)
  expect(records[2]?.messages).toEqual(['late'])
})
