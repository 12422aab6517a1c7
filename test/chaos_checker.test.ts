/** The checker of the resilience suite catches each violation, and lets pass what only looks like one. */
import { expect, test } from 'vitest'
import { check } from '../chaos/checker.ts'
import { type Delivery, emptyHistory, type History, type Remaining, type Send, type Settle } from '../chaos/history.ts'

type Story = Partial<Omit<History, 'queues'>>

/** The rules that a history breaks; of queues `q` (3 attempts) and `k` (keyed). */
const broken = (story: Story): string[] => {
  const queues = [
    { name: 'q', keyed: false, maxAttempts: 3 },
    { name: 'k', keyed: true, maxAttempts: 3 },
  ]
  return [...new Set(check({ ...emptyHistory(queues), ...story }).map(({ rule }) => rule))]
}

const sent = (name: string, more: Partial<Send> = {}): Send => ({
  queue: 'q',
  name,
  key: null,
  delayMs: 0,
  askedMs: 0,
  answeredMs: 10,
  id: name,
  ...more,
})
const delivered = (name: string, attempt: number, answeredMs: number, more: Partial<Delivery> = {}): Delivery => ({
  queue: 'q',
  name,
  id: name,
  key: null,
  receipt: `${name}#${attempt}`,
  attempt,
  askedMs: answeredMs - 10,
  answeredMs,
  untilMs: answeredMs + 1000,
  answer: answeredMs,
  place: 0,
  ...more,
})
const settled = (receipt: string, kind: Settle['kind'], askedMs: number, more: Partial<Settle> = {}): Settle => ({
  receipt,
  kind,
  askedMs,
  answeredMs: askedMs + 10,
  outcome: 'done',
  delayMs: 0,
  untilMs: 0,
  ...more,
})
const left = (name: string, state: Remaining['state'], more: Partial<Remaining> = {}): Remaining => ({
  queue: 'q',
  name,
  id: name,
  state,
  attempts: 3,
  reason: state === 'dead' ? 'max_attempts' : null,
  diedMs: state === 'dead' ? 5000 : null,
  ...more,
})

const good: Story = {
  sends: [sent('a'), sent('b'), sent('c', { id: null })],
  deliveries: [delivered('a', 1, 100), delivered('a', 2, 1200), delivered('b', 3, 100)],
  settles: [settled('a#2', 'ack', 1300)],
  remaining: [left('b', 'dead')],
  counts: [{ queue: 'q', ready: 0, delayed: 0, leased: 0, dead: 1 }],
}

test('a good history passes', () => expect(broken(good)).toEqual([]))

test('an acknowledged send that is nowhere is lost; one that was never acknowledged may be', () => {
  expect(broken({ sends: [sent('a')] })).toEqual(['nothing acknowledged is lost'])
  expect(broken({ sends: [sent('a', { id: null })] })).toEqual([])
  const refused = settled('a#1', 'ack', 200, { outcome: 'lease_lost' })
  expect(broken({ sends: [sent('a')], deliveries: [delivered('a', 1, 100)], settles: [refused] })).toEqual([
    'nothing acknowledged is lost',
  ])
  // A webhook that failed has not taken it.
  const call = { queue: 'q', name: 'a', id: 'a', attempt: 1, arrivedMs: 100, status: 500 }
  expect(broken({ sends: [sent('a')], calls: [call] })).toEqual(['nothing acknowledged is lost'])
  expect(broken({ sends: [sent('a')], calls: [{ ...call, status: 200 }] })).toEqual([])
})

test('an ack without an answer may have taken place', () => {
  const ack = settled('a#1', 'ack', 200, { outcome: 'unknown' })
  const deliveries = [delivered('a', 1, 100), delivered('a', 2, 300)]
  expect(broken({ sends: [sent('a')], deliveries, settles: [ack, settled('a#2', 'ack', 310)] })).toEqual([])
})

test('two live leases', () => {
  const two = { sends: [sent('a')], deliveries: [delivered('a', 1, 100), delivered('a', 2, 600)] }
  const end = settled('a#2', 'ack', 1200)
  expect(broken({ ...two, settles: [end] })).toEqual(['no two live leases'])
  // The first was given up, or might have been.
  expect(broken({ ...two, settles: [settled('a#1', 'nack', 500), end] })).toEqual([])
  expect(broken({ ...two, settles: [settled('a#1', 'nack', 500, { outcome: 'unknown' }), end] })).toEqual([])
  // It was extended beyond the second.
  const later = { sends: [sent('a')], deliveries: [delivered('a', 1, 100), delivered('a', 2, 1200)] }
  expect(broken({ ...later, settles: [end] })).toEqual([])
  const extended = settled('a#1', 'extend', 500, { untilMs: 3000 })
  expect(broken({ ...later, settles: [extended, settled('a#2', 'ack', 1300)] })).toEqual(['no two live leases'])
})

test('a lease that ends with one before it in its run', () => {
  const key = { queue: 'k', key: 'x' }
  const run = [delivered('a', 1, 100, key), delivered('b', 1, 100, { ...key, place: 1 })]
  const story = {
    sends: [sent('a', key), sent('b', { ...key, askedMs: 20, answeredMs: 30 })],
    deliveries: [...run, delivered('a', 2, 300, key), delivered('b', 2, 500, key)],
    settles: [settled('a#1', 'nack', 200), settled('a#2', 'ack', 400), settled('b#2', 'ack', 600)],
  }
  expect(broken(story)).toEqual([])
  expect(broken({ ...story, settles: story.settles.slice(1) })).toContain('no two live leases')
  const parted = settled('b#1', 'ack', 250)
  expect(broken({ ...story, deliveries: story.deliveries.slice(0, 3), settles: [...story.settles, parted] })).toEqual([
    'a receipt is a fence',
  ])
})

test('a receipt that acts after another delivery', () => {
  const two = { sends: [sent('a')], deliveries: [delivered('a', 1, 100), delivered('a', 2, 1200)] }
  const late = settled('a#1', 'ack', 1300)
  expect(broken({ ...two, settles: [late] })).toEqual(['a receipt is a fence'])
  expect(broken({ ...two, settles: [{ ...late, outcome: 'lease_lost' }, settled('a#2', 'ack', 1400)] })).toEqual([])
  // Acked by the other already.
  expect(broken({ ...two, settles: [settled('a#2', 'ack', 1250), late] })).toEqual([])
})

test('a message that comes back, or is still there, after its ack', () => {
  const ack = settled('a#1', 'ack', 200)
  const deliveries = [delivered('a', 1, 100), delivered('a', 2, 900, { askedMs: 800 })]
  expect(broken({ sends: [sent('a')], deliveries, settles: [ack] })).toContain('an ack is final')
  const still = { sends: [sent('a')], deliveries: deliveries.slice(0, 1), settles: [ack] }
  expect(broken({ ...still, remaining: [left('a', 'dead')] })).toContain('an ack is final')
})

test('a delay, of a send or of a nack, that is cut short', () => {
  const delayed = { sends: [sent('a', { delayMs: 500 })], settles: [settled('a#1', 'ack', 900)] }
  expect(broken({ ...delayed, deliveries: [delivered('a', 1, 400)] })).toEqual(['never early'])
  expect(broken({ ...delayed, deliveries: [delivered('a', 1, 500)] })).toEqual([])
  const nacked = {
    sends: [sent('a')],
    settles: [settled('a#1', 'nack', 200, { delayMs: 300 }), settled('a#2', 'ack', 900)],
  }
  expect(broken({ ...nacked, deliveries: [delivered('a', 1, 100), delivered('a', 2, 450)] })).toEqual(['never early'])
})

test('a key out of order', () => {
  const key = { queue: 'k', key: 'x' }
  const sends = [sent('a', key), sent('b', { ...key, askedMs: 20, answeredMs: 30 })]
  const deliveries = [delivered('a', 1, 100, key), delivered('b', 1, 300, key)]
  const acks = [settled('a#1', 'ack', 200), settled('b#1', 'ack', 400)]
  expect(broken({ sends, deliveries, settles: acks })).toEqual([])
  const swapped = [delivered('a', 1, 300, key), delivered('b', 1, 100, key)]
  expect(
    broken({ sends, deliveries: swapped, settles: [settled('b#1', 'ack', 200), settled('a#1', 'ack', 400)] }),
  ).toEqual(['order per key'])
  const dead = left('a', 'dead', { queue: 'k', diedMs: 250 })
  expect(broken({ sends, deliveries: deliveries.slice(1), settles: acks.slice(1), remaining: [dead] })).toEqual([])
  // Sent at the same time: either order will do.
  const atOnce = [sent('a', key), sent('b', key)]
  expect(
    broken({ sends: atOnce, deliveries: swapped, settles: [settled('b#1', 'ack', 200), settled('a#1', 'ack', 400)] }),
  ).toEqual([])
})

test('attempts: one too many, one number twice, a dead letter too soon or for no reason', () => {
  const sends = [sent('a')]
  const ended = (name: string) => [settled(name, 'ack', 9000)]
  expect(broken({ sends, deliveries: [delivered('a', 4, 100)], settles: ended('a#4') })).toEqual([
    'no more attempts than allowed',
  ])
  const twice = [delivered('a', 1, 100), delivered('a', 1, 2000, { receipt: 'other' })]
  expect(broken({ sends, deliveries: twice, settles: ended('other') })).toEqual(['no more attempts than allowed'])
  expect(broken({ sends, remaining: [left('a', 'dead', { attempts: 2 })] })).toEqual(['dead letters'])
  expect(broken({ sends, remaining: [left('a', 'dead', { attempts: 4 })] })).toEqual(['dead letters'])
  expect(broken({ sends, remaining: [left('a', 'dead', { reason: 'rejected' })] })).toEqual(['dead letters'])
  expect(broken({ sends, remaining: [left('a', 'dead')] })).toEqual([])
})

test('a message that is stuck, doubled, or was never sent; counts that do not add up; a mishap', () => {
  const sends = [sent('a')]
  expect(broken({ sends, remaining: [left('a', 'ready')] })).toEqual(['nothing is stuck'])
  expect(broken({ sends, remaining: [left('a', 'dead', { id: 'z' })] })).toEqual(['stored once'])
  expect(broken({ remaining: [left('a', 'dead')] })).toEqual(['known messages only'])
  expect(
    broken({
      sends,
      remaining: [left('a', 'dead')],
      counts: [{ queue: 'q', ready: 1, delayed: 0, leased: 0, dead: 1 }],
    }),
  ).toEqual(['counts'])
  expect(broken({ mishaps: ['a gateway ended by itself'] })).toEqual(['mishap'])
})
