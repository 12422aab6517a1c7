/**
 * What happened to the messages of each queue since the last scrape. The hot path knows queues by their number and adds to these; their
 * names are looked up when somebody reads.
 */
import { type Histogram, histogram, observe, pour } from '../base/index.ts'
import { type DeathReason, deathReasons, type Observe, type SettleOutcome } from '../model/index.ts'
import { metrics } from './metrics.ts'
import type { Sheet } from './sheet.ts'

type Counts = Record<'sent' | 'deduplicated' | 'refused' | 'leased' | 'leases_expired' | 'expired', number>
type Tally = Counts & { outcomes: Map<SettleOutcome, number>; deaths: Map<DeathReason, number>; ages: Histogram }

type Hooks = Pick<
  Observe,
  'sent' | 'deduplicated' | 'refused' | 'leased' | 'settled' | 'leaseExpired' | 'died' | 'dropped'
>

export type Tallies = {
  hooks: Hooks
  /** Adds what was counted to the metrics of each queue. `labelOf` null: not known yet, it waits. */
  pour(sheet: Sheet, labelOf: (queueId: number) => string | null): void
}

const names = {
  sent: 'postern_messages_sent_total',
  deduplicated: 'postern_messages_deduplicated_total',
  refused: 'postern_messages_refused_total',
  leased: 'postern_messages_leased_total',
  leases_expired: 'postern_leases_expired_total',
  expired: 'postern_messages_expired_total',
} as const satisfies Record<keyof Counts, keyof typeof metrics>

export function createTallies(): Tallies {
  let tallies = new Map<number, Tally>()

  function of(queueId: number): Tally {
    let tally = tallies.get(queueId)
    if (!tally) {
      tally = newTally()
      tallies.set(queueId, tally)
    }
    return tally
  }

  return {
    hooks: {
      sent(queueId, messages) {
        of(queueId).sent += messages
      },
      deduplicated(queueId, messages) {
        of(queueId).deduplicated += messages
      },
      refused(queueId, messages) {
        of(queueId).refused += messages
      },
      leased(queueId, attempt, ageMs) {
        const tally = of(queueId)
        tally.leased++
        if (attempt === 1) observe(tally.ages, Math.max(0, ageMs) / 1000)
      },
      settled(queueId, outcome) {
        const { outcomes } = of(queueId)
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      },
      leaseExpired: (queueId) => void of(queueId).leases_expired++,
      died(queueId, reason) {
        const { deaths } = of(queueId)
        deaths.set(reason, (deaths.get(reason) ?? 0) + 1)
      },
      dropped: (queueId) => void of(queueId).expired++,
    },
    pour(sheet, labelOf) {
      const waiting = new Map<number, Tally>()
      for (const [queueId, tally] of tallies) {
        const queue = labelOf(queueId)
        if (queue === null) waiting.set(queueId, tally)
        else pourOne(tally, sheet, queue)
      }
      tallies = waiting
    },
  }
}

function newTally(): Tally {
  const none = { sent: 0, deduplicated: 0, refused: 0, leased: 0, leases_expired: 0, expired: 0 }
  return {
    ...none,
    outcomes: new Map(),
    deaths: new Map(),
    ages: histogram(metrics.postern_message_delivery_seconds.buckets ?? []),
  }
}

function pourOne(tally: Tally, sheet: Sheet, queue: string): void {
  for (const count of Object.keys(names) as (keyof Counts)[]) sheet.cell(names[count], queue).value += tally[count]
  for (const [outcome, count] of tally.outcomes)
    sheet.cell('postern_messages_settled_total', queue, outcome).value += count
  // With 0 too: of a series that begins with 1 nobody sees an increase.
  for (const reason of deathReasons)
    sheet.cell('postern_messages_dead_lettered_total', queue, reason).value += tally.deaths.get(reason) ?? 0
  pour(tally.ages, sheet.histogram('postern_message_delivery_seconds', queue))
}
