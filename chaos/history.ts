/**
 * What a run has seen from the outside. All times are milliseconds since 1970 of this machine, whose clock Postgres shares. What
 * happened inside lies between `askedMs` and `answeredMs`.
 */

/** One message into one queue, its retries included; a publish makes one for each queue it must reach. */
export type Send = {
  queue: string
  /** Unique in the run: the body. */
  name: string
  key: string | null
  delayMs: number
  askedMs: number
  answeredMs: number
  /** null: nobody knows whether it was stored. */
  id: string | null
}

export type Delivery = {
  queue: string
  name: string
  id: string
  key: string | null
  receipt: string
  attempt: number
  askedMs: number
  answeredMs: number
  /** When the lease ends, as the answer says. */
  untilMs: number
  /** The receive that brought it, and its place in that answer. */
  answer: number
  place: number
}

export type SettleKind = 'ack' | 'nack' | 'reject' | 'extend'
export type Settle = {
  receipt: string
  kind: SettleKind
  askedMs: number
  answeredMs: number
  outcome: 'done' | 'lease_lost' | 'unknown'
  /** Of a nack: the delay. */
  delayMs: number
  /** Of an extension: when the lease ends, or would end if it took place just when it was asked for. */
  untilMs: number
}

/** One call to the webhook. */
export type Call = {
  queue: string
  name: string
  id: string
  attempt: number
  arrivedMs: number
  status: number | null
}

export type State = 'ready' | 'delayed' | 'leased' | 'dead'
/** What is still there when all is over. */
export type Remaining = {
  queue: string
  name: string
  id: string
  state: State
  attempts: number
  reason: string | null
  diedMs: number | null
}

export type QueueRules = { name: string; keyed: boolean; maxAttempts: number }

export type History = {
  queues: QueueRules[]
  sends: Send[]
  deliveries: Delivery[]
  settles: Settle[]
  calls: Call[]
  remaining: Remaining[]
  counts: ({ queue: string } & Record<State, number>)[]
  /** What must not happen and shows at once: a status that no fault explains, a gateway that ended by itself. */
  mishaps: string[]
}

export const emptyHistory = (queues: QueueRules[]): History => ({
  queues,
  sends: [],
  deliveries: [],
  settles: [],
  calls: [],
  remaining: [],
  counts: [],
  mishaps: [],
})
