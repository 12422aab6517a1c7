/** What is read to explain a message, and what is answered: every code with its meaning. */
import type { DeathReason } from './message.ts'
import type { Order } from './queue.ts'
import type { Rate } from './rate.ts'
import type { CircuitState, DisabledReason } from './subscription.ts'

export const explainStates = ['ready', 'delayed', 'leased', 'dead', 'expired', 'gone'] as const
export type ExplainState = (typeof explainStates)[number]

/** Every code, and what it means. */
export const explainCodes = {
  next_in_line: 'nothing is in its way: the next receive gets it',
  in_line: 'ready, and others are handed out before it',
  no_consumer: 'nobody seems to receive from its queue',
  delayed: 'it is not due yet',
  backing_off: 'an attempt failed, and it waits before the next',
  upkeep_late: 'its time has come and no gateway has moved it: none with the role upkeep seems to run',
  leased: 'somebody works on it',
  lease_over: 'its lease has run out: it is ready again within a second',
  key_busy: 'another message of its key is under way',
  key_blocked: 'a dead letter has stopped its key',
  key_turn: 'its key has had its turn, and others are first',
  queue_paused: 'its queue is paused',
  max_leased: 'its queue has as many leases as it may have',
  attempts_spent: 'it has had all its attempts, and becomes a dead letter at the next look',
  subscription_disabled: 'the webhook that would get it is disabled',
  subscription_unserved: 'no gateway with the role push delivers for its webhook',
  circuit_open: 'its endpoint failed too often in a row and is left alone',
  endpoint_held: 'its endpoint has asked to be left alone for a while',
  rate_limited: 'its webhook gets no more at a time than its rate',
  concurrency_full: 'its webhook has as many calls under way as it may have',
  dead_max_attempts: 'a dead letter: it has had all its attempts',
  dead_rejected: 'a dead letter: a consumer refused it',
  dead_expired: 'a dead letter: its time to live was over',
  dead_gone: 'a dead letter: its endpoint answered 410 Gone',
  in_dead_letter_queue: 'a dead letter that the dead-letter queue has taken',
  expired: 'its time to live is over; it is not handed out any more',
  delivered: 'it is done: a webhook has taken it',
  removed: 'it is not there any more, and no webhook has taken it',
} as const
export type ExplainCode = keyof typeof explainCodes

/** `until`: when it changes by itself, as far as is known. The others name what it is about. */
export type Reason = {
  code: ExplainCode
  detail: string
  until: Date | null
  messageId?: string
  subscription?: string
  queue?: string
}

/** Who holds a lease, as the gateway through which it went remembers. One of the first two. */
export type Holder = {
  /** The id of an API key, or `root`. */
  key: string | null
  keyName: string | null
  subscription: string | null
  gateway: string
  leasedAt: Date
}

/** One webhook call for the message. */
export type AttemptFact = {
  subscription: string
  attempt: number
  at: Date
  succeeded: boolean
  status: number | null
  durationMs: number
  error: string | null
  nextAttemptAt: Date | null
}

export type MessageFacts = {
  id: string
  place: 'messages' | 'scheduled' | 'waiting' | 'dead'
  /** Another queue that has it as a dead letter of this one; null: it is in its queue. */
  elsewhere: string | null
  attempts: number
  key: string | null
  headers: Readonly<Record<string, string>>
  enqueuedAt: Date
  expiresAt: Date
  /** It has been placed anew since it was sent. */
  moved: boolean
  dueAt: Date | null
  leasedUntil: Date | null
  death: { reason: DeathReason; lastError: string | null; diedAt: Date } | null
}

/** What the key of a message that waits behind others is doing. */
export type KeyFacts = {
  blocked: { messageId: string; reason: DeathReason; lastError: string | null; since: Date } | null
  /** The first of its key that is under way or ready. */
  first: { id: string; state: 'ready' | 'leased' | 'delayed'; until: Date | null } | null
  /** Of the same key, waiting before it; at most `countedAhead`. */
  before: number
}

/** One webhook on the queue. */
export type SubscriptionFacts = {
  id: string
  disabled: DisabledReason | null
  circuit: CircuitState
  failures: number
  failingSince: Date | null
  heldUntil: Date | null
  concurrency: number
  rate: Rate | null
  /** Whether a gateway that is alive delivers for it. */
  served: boolean
}

export type ExplainFacts = {
  now: Date
  queue: {
    name: string
    order: Order
    paused: boolean
    maxLeased: number | null
    maxAttempts: number
    deadLetterExpired: boolean
    deadLetterQueue: string | null
    backlog: boolean
  }
  /** null: it is not there any more. */
  message: MessageFacts | null
  /** When it was published to a topic, as long as the topic keeps it. */
  published: { at: Date; topic: string; routingKey: string } | null
  /** Ready messages that are handed out before it, at most `countedAhead`. */
  ahead: number
  leased: number
  key: KeyFacts | null
  subscriptions: readonly SubscriptionFacts[]
  holder: Holder | null
  attempts: readonly AttemptFact[]
  /** Something was leased or settled in the last minute. */
  consumed: boolean
}

/** So many are counted; more is "more than". */
export const countedAhead = 1000

export const timelineEvents = [
  'published',
  'sent',
  'moved',
  'attempt_failed',
  'attempt_succeeded',
  'attempts_made',
  'leased',
  'key_blocked',
  'died',
  'due',
  'next_attempt',
  'lease_ends',
  'expires',
] as const
/** `at` null: it happened, and when is not kept. `expected`: it lies ahead. */
export type TimelineEntry = {
  at: Date | null
  event: (typeof timelineEvents)[number]
  detail: string
  expected: boolean
}

export type Explanation = {
  id: string
  queue: string
  state: ExplainState
  /** The reasons in words. */
  summary: string
  /** What holds it first; then whatever else is in its way. */
  reasons: Reason[]
  attempts: number
  maxAttempts: number
  holder: Holder | null
  timeline: TimelineEntry[]
}

export const reason = (
  code: ExplainCode,
  detail: string,
  more: Partial<Omit<Reason, 'code' | 'detail'>> = {},
): Reason => ({
  code,
  detail,
  until: null,
  ...more,
})

/** A length of time in words; a point in time is always said exactly beside it. */
export function span(ms: number): string {
  const units = [
    [86_400_000, 'days'],
    [3_600_000, 'hours'],
    [60_000, 'minutes'],
    [1_000, 'seconds'],
  ] as const
  const [size, name] = units.find(([each]) => ms >= 2 * each) ?? [1_000, 'seconds']
  return ms < 1_000 ? 'less than a second' : ms < 2_000 ? '1 second' : `${Math.round(ms / size)} ${name}`
}
