/** What is decided about a message from the facts; how the facts come about is in http_explain.test.ts. */
import { expect, test } from 'vitest'
import { type ExplainFacts, explain, type MessageFacts, type SubscriptionFacts, span } from '../src/model/index.ts'

const now = new Date('2026-11-21T12:00:00Z')
const later = (ms: number) => new Date(now.getTime() + ms)
const queue: ExplainFacts['queue'] = {
  ...{ name: 'q', order: 'fifo', paused: false, maxLeased: null, maxAttempts: 10, deadLetterExpired: false },
  ...{ deadLetterQueue: null, backlog: false },
}
const message: MessageFacts = {
  ...{ id: 'msg_1', place: 'messages', elsewhere: null, attempts: 0, key: null, headers: {}, moved: false },
  ...{ enqueuedAt: later(-60_000), expiresAt: later(60_000), dueAt: null, leasedUntil: null, death: null },
}
const facts: ExplainFacts = {
  ...{ now, queue, message, published: null, ahead: 0, leased: 0, key: null, subscriptions: [], holder: null },
  ...{ attempts: [], consumed: true },
}
const codes = (more: Partial<ExplainFacts>) => explain('msg_1', { ...facts, ...more }).reasons.map(({ code }) => code)

test.each([
  ['max_attempts', 'dead_max_attempts'],
  ['rejected', 'dead_rejected'],
  ['expired', 'dead_expired'],
  ['gone', 'dead_gone'],
] as const)('dead because of %s', (reason, code) => {
  const dead: MessageFacts = { ...message, place: 'dead', death: { reason, lastError: null, diedAt: now } }
  expect(codes({ message: dead })).toEqual([code])
})

test('gone after calls that failed is not called delivered', () => {
  const failed = {
    ...{ subscription: 'sub_1', attempt: 3, at: now, succeeded: false, status: 500, durationMs: 4 },
    ...{ error: 'The endpoint answered 500.', nextAttemptAt: later(1000) },
  }
  const found = explain('msg_1', { ...facts, message: null, attempts: [failed] })
  expect([found.state, found.reasons[0]?.code, found.attempts]).toEqual(['gone', 'removed', 3])
  expect(found.timeline.map(({ event }) => event)).toEqual(['attempt_failed'])
})

test('a schedule that sent it, and a key that is just moving up', () => {
  const scheduled = { ...message, headers: { 'postern-schedule': 'nightly' } }
  expect(explain('msg_1', { ...facts, message: scheduled }).timeline[0]?.detail).toBe('Sent by the schedule nightly.')
  const waiting: MessageFacts = { ...message, place: 'waiting', key: 'a' }
  const key = { blocked: null, first: null, before: 0 }
  expect(codes({ message: waiting, queue: { ...queue, order: 'keyed' }, key })).toEqual(['key_busy'])
})

test('more than it counts is more than', () => {
  expect(explain('msg_1', { ...facts, ahead: 1001 }).summary).toContain('more than 1000 messages are')
  expect(explain('msg_1', { ...facts, ahead: 1000 }).summary).toContain('; 1000 messages are')
})

test('what others consume is held by a webhook only when all of them are, and a receive gets it all the same', () => {
  const open: SubscriptionFacts = {
    ...{ id: 'sub_2', disabled: null, circuit: 'closed', failures: 0, failingSince: null, heldUntil: null },
    ...{ concurrency: 10, rate: null, served: true },
  }
  const held: SubscriptionFacts = { ...open, id: 'sub_1', disabled: 'gone' }
  expect(codes({ subscriptions: [held], consumed: false })).toEqual(['subscription_disabled'])
  expect(codes({ subscriptions: [held, open], consumed: false })).toEqual(['next_in_line'])
  expect(codes({ subscriptions: [held], consumed: true })).toEqual(['subscription_disabled', 'next_in_line'])
  const backlog = { ...queue, backlog: true }
  expect(codes({ subscriptions: [held], consumed: true, queue: backlog })).toEqual(['subscription_disabled'])
  expect(codes({ subscriptions: [{ ...open, heldUntil: later(-1) }], queue: backlog })).toEqual(['next_in_line'])
})

test('on a queue: the circuit, also half open; the rate, also of the first in line; the concurrency', () => {
  const one: SubscriptionFacts = {
    ...{ id: 'sub_1', disabled: null, circuit: 'closed', failures: 0, failingSince: null, heldUntil: null },
    ...{ concurrency: 1, rate: null, served: true },
  }
  // The webhook itself is who consumes.
  const of = (more: Partial<SubscriptionFacts>, facts: Partial<ExplainFacts> = {}) =>
    codes({ ...facts, subscriptions: [{ ...one, ...more }], consumed: true })
  expect(of({ circuit: 'open', failures: 10, heldUntil: later(1000) })).toEqual(['circuit_open', 'next_in_line'])
  expect(of({ circuit: 'half_open', failures: 10, heldUntil: later(-1) })).toEqual(['circuit_open', 'next_in_line'])
  expect(of({ rate: { count: 1, perMs: 60_000 } })).toEqual(['rate_limited', 'next_in_line'])
  expect(of({ rate: { count: 100, perMs: 60_000 } })).toEqual(['next_in_line'])
  expect(of({ rate: { count: 10, perMs: 1000 } }, { ahead: 9 })).toEqual(['in_line'])
  expect(of({}, { leased: 1 })).toEqual(['concurrency_full', 'next_in_line'])
  const found = explain('msg_1', { ...facts, leased: 1, subscriptions: [one] }).summary
  expect(found).toContain('1 message of the queue is leased, and the webhook sub_1 makes at most 1 call at a time.')
})

test('who holds a lease and is not known is said to be kept in memory only', () => {
  const leased = { ...message, attempts: 1, leasedUntil: later(1000) }
  expect(explain('msg_1', { ...facts, message: leased }).summary).toContain('only in the memory of the gateway')
})

test('lengths of time in words', () => {
  const cases = [0, 1500, 90_000, 7_200_000, 3 * 86_400_000]
  expect(cases.map(span)).toEqual(['less than a second', '1 second', '90 seconds', '2 hours', '3 days'])
})
