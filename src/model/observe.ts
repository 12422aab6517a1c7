/** What the parts of a gateway tell whoever watches it. Called on the hot path: an implementation is quick and never throws. */
import type { SettleOutcome } from './message.ts'

/** What callers gather for. */
export type GatheredKind = 'send' | 'publish' | 'lease' | 'ack' | 'release' | 'extend'

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
  died(queueId: number): void
  /** The ttl of a message of this queue was over, and nothing was kept of it. */
  dropped(queueId: number): void
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
  request() {},
  requesting() {},
  attempt() {},
}
