/** Random operations through two brokers against a small queue in memory. POSTERN_SEED repeats a run. */

import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../src/broker/index.ts'
import type { Delivery } from '../src/model/index.ts'
import { type Bench, brokersOn, message, receive, settle } from './support/broker.ts'
import { eventually } from './support/postgres.ts'

type Held = { body: string; priority: number; attempts: number }
const maxAttempts = 3
const steps = 3000

let bench: Bench
beforeAll(async () => {
  bench = await brokersOn(2)
})
afterAll(() => bench.stop())

/** mulberry32: small, and good enough to choose with. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

/** What the queue should be: retries and firsts of each priority in order, leases, dead letters. */
function model() {
  const lanes = Array.from({ length: 20 }, () => [] as Held[])
  const leased = new Map<string, Held>()
  const dead: string[] = []
  const known = new Map<string, string>()
  return {
    lanes,
    leased,
    dead,
    send(body: string, priority: number, dedupId: string | null): boolean {
      if (dedupId !== null && known.has(dedupId)) return false
      if (dedupId !== null) known.set(dedupId, body)
      lanes[(9 - priority) * 2 + 1]?.push({ body, priority, attempts: 0 })
      return true
    },
    take(max: number): Held[] {
      const taken: Held[] = []
      for (const lane of lanes) while (taken.length < max && lane.length > 0) taken.push(lane.shift() as Held)
      for (const held of taken) held.attempts++
      return taken
    },
    nack(held: Held) {
      if (held.attempts >= maxAttempts) dead.push(held.body)
      else lanes[(9 - held.priority) * 2]?.push(held)
    },
    ready: () => lanes.reduce((sum, lane) => sum + lane.length, 0),
  }
}

test('two brokers behave as one small queue', async () => {
  const seed = Number(process.env.POSTERN_SEED ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`POSTERN_SEED=${seed}`)
  const random = randomFrom(seed)
  const expected = model()
  const stale: string[] = []
  const deliveries = new Map<string, Delivery>()
  await bench.brokers[0]?.admin.putQueue('model', { maxAttempts })
  const pick = (): Broker => bench.brokers[random(2)] as Broker
  const pickLease = (): [string, Held] | undefined => [...expected.leased][random(expected.leased.size || 1)]

  async function end(action: 'ack' | 'nack' | 'reject' | 'extend'): Promise<void> {
    const chosen = pickLease()
    if (!chosen) return
    const [receipt, held] = chosen
    const outcomes = {
      ack: async () => settle(pick(), { action: 'ack', receipt }),
      nack: async () => settle(pick(), { action: 'nack', receipt, delayMs: 0 }),
      reject: async () => settle(pick(), { action: 'reject', receipt, reason: 'no' }),
      extend: async () => settle(pick(), { action: 'extend', receipt, leaseMs: 600_000 }),
    }
    expect(await outcomes[action]()).toEqual([
      { ack: 'acked', nack: 'nacked', reject: 'rejected', extend: 'extended' }[action],
    ])
    if (action === 'extend') return
    expected.leased.delete(receipt)
    if (action === 'nack') expected.nack(held)
    if (action === 'reject') expected.dead.push(held.body)
    if (action !== 'ack') stale.push(receipt)
  }

  for (let step = 0; step < steps; step++) {
    const choice = random(100)
    if (choice < 35) {
      const items = Array.from({ length: 1 + random(4) }, (_, n) => ({
        body: `${step}.${n}`,
        priority: random(3) * 4,
        dedupId: random(5) === 0 ? `d${random(50)}` : null,
      }))
      const sent = await pick().send(
        'model',
        items.map(({ body, ...more }) => message(body, { ...more, delayMs: 0 })),
      )
      const fresh = items.map(({ body, priority, dedupId }) => expected.send(body, priority, dedupId))
      expect(sent.map((each) => !(each instanceof Error) && !each.deduplicated)).toEqual(fresh)
    } else if (choice < 60) {
      const max = 1 + random(6)
      const got = await receive(pick(), 'model', max, { leaseMs: 600_000 })
      const should = expected.take(max)
      expect(got.map((each) => [each.body.toString(), each.priority, each.attempt])).toEqual(
        should.map((held) => [held.body, held.priority, held.attempts]),
      )
      got.forEach((each, at) => {
        deliveries.set(each.receipt, each)
        expected.leased.set(each.receipt, should[at] as Held)
      })
    } else if (choice < 75) await end('ack')
    else if (choice < 87) await end('nack')
    else if (choice < 91) await end('reject')
    else if (choice < 94) await end('extend')
    else if (choice < 97 && stale.length > 0) {
      const receipt = stale[random(stale.length)] ?? ''
      const body = deliveries.get(receipt)?.body.toString() ?? ''
      const alive =
        expected.dead.includes(body) ||
        [...expected.leased.values(), ...expected.lanes.flat()].some((held) => held.body === body)
      expect(await settle(pick(), { action: 'ack', receipt })).toEqual([alive ? 'lease_lost' : 'acked'])
    } else {
      const should = { ready: expected.ready(), delayed: 0, leased: expected.leased.size, dead: expected.dead.length }
      // A count that was costly, as all are on a busy machine, is kept for a moment.
      await eventually(async () => {
        const { counts } = (await bench.brokers[0]?.admin.getQueue('model')) ?? {}
        return JSON.stringify(counts) === JSON.stringify(should)
      })
    }
  }
}, 120_000)
