/** Webhook subscriptions: where to deliver, how hard to try, and how the endpoint has been doing. */
import type { Headers } from './message.ts'
import type { Rate } from './rate.ts'
import type { Interest } from './topic.ts'

export const subscriptionFormats = ['raw', 'cloudevents', 'envelope'] as const
export type SubscriptionFormat = (typeof subscriptionFormats)[number]

/** When to try again after a failed attempt; ±20 % jitter is added to each. */
export type Retry =
  /** The wait after the first failed attempt, after the second … */
  | { kind: 'schedule'; scheduleMs: readonly number[] }
  /** base · factor^(attempt − 1), at most max. */
  | { kind: 'backoff'; baseMs: number; maxMs: number; factor: number }

export type SubscriptionSettings = {
  name: string | null
  url: string
  format: SubscriptionFormat
  /** Sent with every delivery, over the message's own of the same name. */
  headers: Headers
  /** For a whole attempt, from dialling to the head of the answer. */
  timeoutMs: number
  /** Deliveries under way at once, over all gateways. */
  concurrency: number
  /** Deliveries, evenly spaced. */
  rate: Rate | null
  retry: Retry
  /** null: one more than the schedule has waits; 10 with a backoff. On a queue, the queue's own limit holds as well. */
  maxAttempts: number | null
}

/** On a topic a subscription has an interest and a backlog of its own; on a queue it competes. */
export type SubscriptionSource = { queue: string } | ({ topic: string } & Interest)

/** `requested` by a caller · `gone`: the endpoint answered 410 · `failing`: it has failed for five days. */
export type DisabledReason = 'requested' | 'gone' | 'failing'

export type CircuitState = 'closed' | 'open' | 'half_open'

/** How the endpoint has been doing, as its dispatcher last said. */
export type Health = {
  circuit: CircuitState
  /** Failures since the last success. */
  failures: number
  failingSince: Date | null
  /** Nothing is sent before: the circuit is open, or the endpoint asked for a pause. */
  heldUntil: Date | null
}

export type Subscription = SubscriptionSettings & {
  /** `sub_…` */
  id: string
  source: SubscriptionSource
  /** The queue it delivers from: on a topic its backlog, which is named like the subscription. */
  queue: string
  disabled: DisabledReason | null
  health: Health
  createdAt: Date
  updatedAt: Date
}

/** A live signing secret. The newest has no end; the ones before it end when their grace is over. */
export type SigningSecret = { secret: string; createdAt: Date; expiresAt: Date | null }

/** How the id of a test's made-up message begins, so that it is no message's. */
export const testMessageId = 'msg_test'

/** One HTTP call. */
export type Attempt = {
  id: string
  messageId: string
  /** Which delivery of the message, from 1; 0 for a test. */
  attempt: number
  at: Date
  outcome: 'succeeded' | 'failed'
  /** null: no answer came. */
  status: number | null
  durationMs: number
  requestHeaders: Headers
  responseHeaders: Headers
  /** The first 16 KiB. */
  responseBody: Buffer
  error: string | null
  nextAttemptAt: Date | null
}

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

export const subscriptionLimits = {
  timeoutMs: { min: SECOND, max: 300 * SECOND },
  concurrency: { min: 1, max: 1000 },
  rateCount: { min: 1, max: 100_000 },
  scheduleWaits: 100,
  waitMs: { min: 0, max: 30 * DAY },
  factor: { min: 1, max: 100 },
  maxAttempts: { min: 1, max: 1000 },
  graceMs: { min: 0, max: 30 * DAY },
  urlLength: 2048,
  headers: 32,
  connectTimeoutMs: 5 * SECOND,
  responseBytes: 16 * 1024,
  /** After so long without a success a failing subscription is disabled. */
  failingMs: 5 * DAY,
} as const

/** Standard Webhooks' recommended schedule. */
export const defaultRetry: Retry = {
  kind: 'schedule',
  scheduleMs: [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR],
}

export const defaultSubscription: Omit<SubscriptionSettings, 'url'> = {
  name: null,
  format: 'raw',
  headers: {},
  timeoutMs: 30 * SECOND,
  concurrency: 10,
  rate: null,
  retry: defaultRetry,
  maxAttempts: null,
}

/** How often a message is tried before it is a dead letter. */
export const attemptsOf = ({ maxAttempts, retry }: Pick<SubscriptionSettings, 'maxAttempts' | 'retry'>): number =>
  maxAttempts ?? (retry.kind === 'schedule' ? retry.scheduleMs.length + 1 : 10)
