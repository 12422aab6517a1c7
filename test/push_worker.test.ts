/** What one subscription's worker leases, holds back and returns. Time passes when it is told to, however busy the machine is. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Assignment, ReceiveOptions } from '../src/broker/index.ts'
import { type Delivery, defaultSubscription, type SettleAction } from '../src/model/index.ts'
import type { SendResult } from '../src/push/sender.ts'
import { createWorker, type WorkerDeps } from '../src/push/worker.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] }))
afterEach(() => void vi.useRealTimers())

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms)

const assignmentOf = (more: Partial<Assignment>): Assignment => ({
  ...defaultSubscription,
  ...{ url: 'http://127.0.0.1/', id: 'sub_1', number: 1, queueId: 7, queue: 'q', source: { queue: 'q' } },
  ...{ version: 1, queueMaxAttempts: 10, ackFrees: false, disabled: null, secrets: [], calledMs: null },
  health: { circuit: 'closed', failures: 0, failingSince: null, heldUntil: null },
  ...{ createdAt: new Date(0), updatedAt: new Date(0), ...more },
})

/** A queue with as much as is asked for, an endpoint that answers when it is told to. */
function working(more: Partial<Assignment> = {}) {
  const asked: { max: number; signal: AbortSignal; give(count: number): void }[] = []
  const calls: { waitedMs: number; answer(): void }[] = []
  const settled: Record<SettleAction['action'], string[]> = { ack: [], nack: [], extend: [], reject: [], return: [] }
  let endless = true
  let made = 0
  const leasedMs = new Map<string, number>()
  const delivery = (leaseMs: number): Delivery => ({
    ...{ id: `m${++made}`, receipt: `m${made}`, body: Buffer.from('x'), contentType: 'text/plain', headers: {} },
    ...{ key: null, priority: 5, attempt: 1, enqueuedAt: new Date() },
    leaseExpiresAt: new Date(Date.now() + leaseMs),
  })
  const receive = (_queue: string, { max, leaseMs, signal }: ReceiveOptions) =>
    new Promise((resolve) => {
      const give = (count: number): void => {
        for (let n = 1; n <= count; n++) leasedMs.set(`m${made + n}`, performance.now())
        resolve({ messages: Array.from({ length: count }, () => delivery(leaseMs ?? 0)), giveBack: async () => {} })
      }
      asked.push({ max, signal, give })
      if (endless) give(max)
      else signal.addEventListener('abort', () => setTimeout(() => give(0), 1))
    })
  const send = (request: { headers: Record<string, string> }) =>
    new Promise<SendResult>((resolve) => {
      const startMs = performance.now()
      calls.push({
        waitedMs: startMs - (leasedMs.get(request.headers['webhook-id'] ?? '') ?? Number.NaN),
        answer: () =>
          resolve({
            outcome: { kind: 'answer', status: 200, retryAfter: null },
            durationMs: performance.now() - startMs,
            responseHeaders: {},
            responseBody: Buffer.alloc(0),
          } as SendResult),
      })
    })
  const deps = {
    broker: { receive, desk: { recordHealth: async () => ({ failingMs: 0 }) } },
    gathered: { settle: async (action: SettleAction) => void settled[action.action].push(action.receipt), record() {} },
    sender: { send },
    version: 'test',
    alive: () => true,
    held: { bytes: 0 },
    disabled() {},
    log() {},
  } as unknown as WorkerDeps
  const worker = createWorker(assignmentOf(more), deps)
  const dryUp = (): void => {
    endless = false
  }
  let answered = 0
  const skip = (count: number): void => {
    answered += count
  }
  /** So many calls, one after the other, are answered so long after one another. */
  async function answers(count: number, ms: number): Promise<void> {
    for (const until = answered + count; answered < until; answered++) {
      await pass(ms)
      calls[answered]?.answer()
      await pass(0)
    }
  }
  return { worker, asked, calls, settled, answers, skip, dryUp }
}

test('a fast endpoint finds messages waiting; when it hangs they go back within moments, and none is leased ahead again', async () => {
  const { calls, settled, asked, answers } = working({ concurrency: 2 })
  await pass(0)
  expect(asked.map(({ max }) => max)).toEqual([2])
  await answers(40, 1)
  expect(asked.at(-1)?.max).toBeGreaterThan(2)
  expect(settled.return).toEqual([])
  const sent = calls.length
  const before = asked.length
  await pass(299)
  expect(settled.return).toEqual([])
  await pass(1)
  const back = settled.return.length
  expect(back).toBeGreaterThan(2)
  expect(calls).toHaveLength(sent)
  expect(asked).toHaveLength(before)
  // One that answers now and then gets as much as it can take, and no more.
  await answers(4, 1)
  expect(asked.slice(before).map(({ max }) => max)).toEqual([1, 1, 1, 1])
  expect(settled.return).toHaveLength(back)
  await pass(20_000)
  expect(asked).toHaveLength(before + 4)
  expect(settled.return).toHaveLength(back)
  await answers(40, 1)
  expect(asked.at(-1)?.max).toBeGreaterThan(2)
})

test('an endpoint that hangs from the first call on keeps nobody from what it cannot take', async () => {
  const { asked, settled } = working({ concurrency: 3 })
  await pass(10_000)
  expect(asked.map(({ max }) => max)).toEqual([3])
  expect(settled.return).toEqual([])
})

test('a receive that asks for more than may be under way is taken back when nothing moves', async () => {
  const { asked, answers, dryUp } = working({ concurrency: 1 })
  await pass(0)
  await answers(40, 1)
  dryUp()
  // What waits here is used up; the next receive stays without an answer.
  await answers(60, 1)
  const last = asked.at(-1)
  expect(last?.max).toBeGreaterThan(1)
  last?.give(1)
  await pass(0)
  const parked = asked.at(-1)
  expect(parked).not.toBe(last)
  await pass(299)
  expect(parked?.signal.aborted).toBe(false)
  await pass(1)
  expect(parked?.signal.aborted).toBe(true)
  await pass(10_000)
  expect(asked.at(-1)).toBe(parked)
})

test('one answer after seconds is enough to be slow', async () => {
  const { asked, calls, answers, skip, settled } = working({ concurrency: 2 })
  await pass(0)
  const slow = calls[0]
  skip(1)
  // The other goes on meanwhile, so that nothing stalls.
  await answers(100, 25)
  expect(settled.return).toEqual([])
  const before = asked.length
  expect(before).toBeLessThan(100)
  slow?.answer()
  await pass(0)
  await answers(8, 1)
  expect(new Set(asked.slice(before).map(({ max }) => max))).toEqual(new Set([1]))
})

test('answers that become slow leave no more waiting than have their turn soon', async () => {
  const { settled, answers, calls } = working({ concurrency: 1 })
  await pass(0)
  await answers(60, 1)
  await answers(1, 250)
  expect(settled.return.length).toBeGreaterThan(10)
  await answers(20, 250)
  expect(Math.max(...calls.map(({ waitedMs }) => waitedMs))).toBeLessThanOrEqual(1_000)
})

test('what waits is not sent after its queue has changed, and neither is what a lease under way still brings', async () => {
  const { worker, asked, answers, calls, settled, dryUp } = working({ concurrency: 1 })
  await pass(0)
  await answers(40, 1)
  expect(calls).toHaveLength(41)
  dryUp()
  worker.queueChanged()
  await pass(0)
  expect(settled.return.length).toBeGreaterThan(10)
  const back = settled.return.length
  const late = asked.at(-1)
  worker.queueChanged()
  late?.give(1)
  await pass(2)
  expect(settled.return).toHaveLength(back + 1)
  await answers(1, 1)
  expect(calls).toHaveLength(41)
  // And then it goes on.
  asked.at(-1)?.give(1)
  await pass(0)
  expect(calls).toHaveLength(42)
})

test.each([
  ['its own', { maxAttempts: 1 }],
  ["its queue's", { queueMaxAttempts: 1 }],
])('a message with a single attempt by %s limit is never leased ahead', async (_whose, more) => {
  const { asked, answers } = working({ concurrency: 3, ...more })
  await pass(0)
  await answers(60, 1)
  expect(asked.length).toBeGreaterThan(20)
  expect(Math.max(...asked.slice(1).map(({ max }) => max))).toBe(1)
})
