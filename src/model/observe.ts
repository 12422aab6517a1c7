/** What the parts of a gateway tell whoever watches it. Called on the hot path: an implementation is quick and never throws. */
import type { DeathReason, SettleOutcome } from './message.ts'

/** What callers gather for. */
export type GatheredKind = 'send' | 'publish' | 'lease' | 'ack' | 'release' | 'extend'

/** `unmatched`: stored nothing, because no binding matched. `refused`: a queue that it had to reach was full. */
export const publishOutcomes = ['stored', 'unmatched', 'deduplicated', 'refused'] as const
export type PublishOutcome = (typeof publishOutcomes)[number]

/** `failed`: tried, and refused. `missed`: passed over, as its `misfire` says. */
export const fireOutcomes = ['sent', 'failed', 'missed'] as const
export type FireOutcome = (typeof fireOutcomes)[number]

export type AttemptFacts = {
  subscription: string
  /** The HTTP status; null when no answer came. */
  status: number | null
  verdict: 'settle' | 'retry' | 'dead'
  durationMs: number
  /** Of the message, when the answer was there: since it was sent, by Postgres's clock. */
  ageMs: number
}

export type Observe = {
  /** A statement is over. `failed`: Postgres refused it; `unavailable`: nobody answered, or not in time. */
  statement(name: string, durationMs: number, outcome: 'done' | 'failed' | 'unavailable'): void
  /** So many calls left together in one statement. */
  gathered(kind: GatheredKind, calls: number): void
  /** A lease looked from the beginning of its queue, whatever the marks say. */
  swept(durationMs: number): void
  /** Stored, by this gateway, in one statement. */
  sent(queueId: number, messages: number): void
  deduplicated(queueId: number, messages: number): void
  /** The queue was full. */
  refused(queueId: number, messages: number): void
  /** One message was leased; `ageMs`: since it was sent, by Postgres's clock. */
  leased(queueId: number, attempt: number, ageMs: number): void
  settled(queueId: number, outcome: SettleOutcome): void
  /** A lease ended by itself. */
  leaseExpired(queueId: number): void
  /** A message of this queue became a dead letter. */
  died(queueId: number, reason: DeathReason): void
  /** The ttl of a message of this queue was over, and nothing was kept of it. */
  dropped(queueId: number): void
  /** What became of one publish. */
  published(outcome: PublishOutcome): void
  /** What became of one time at which a schedule was due. */
  fired(outcome: FireOutcome): void
  /** `route`: as declared, never as asked. */
  request(method: string, route: string, status: number, durationMs: number): void
  /** Requests that are being answered. */
  requesting(change: 1 | -1): void
  attempt(facts: AttemptFacts): void
}

/** Of nobody who watches. */
export const unobserved: Observe = {
  statement() {},
  gathered() {},
  swept() {},
  sent() {},
  deduplicated() {},
  refused() {},
  leased() {},
  settled() {},
  leaseExpired() {},
  died() {},
  dropped() {},
  published() {},
  fired() {},
  request() {},
  requesting() {},
  attempt() {},
}
