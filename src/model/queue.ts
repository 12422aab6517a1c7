/** A queue's settings, as a caller gives them and as the broker keeps them. Durations are whole milliseconds. */

export type Order = 'fifo' | 'lifo' | 'keyed'
export type Overflow = 'reject' | 'drop_oldest'

/** Delay before a message is handed out again: min(max, base * factor^(attempts-1)), less up to `jitter` (0–1) of it at random. */
export type Backoff = { baseMs: number; maxMs: number; factor: number; jitter: number }

export type QueueSettings = {
  order: Order
  leaseMs: number
  maxAttempts: number
  delayMs: number
  ttlMs: number
  backoff: Backoff | null
  /** Name of another queue that takes this one's dead letters; null keeps them with the queue. */
  deadLetterQueue: string | null
  deadLetterExpired: boolean
  maxMessages: number | null
  maxBytes: number | null
  overflow: Overflow
  dedupWindowMs: number
  maxLeased: number | null
  paused: boolean
  /** Of a keyed queue: whether a key goes on after a dead letter, or waits until it is unblocked. */
  onDead: 'continue' | 'block'
  /** Of a fifo queue: keys take turns, so that one with many messages does not delay the others. */
  fair: boolean
}

export type Queue = QueueSettings & {
  id: number
  name: string
  /** The backlog of a topic's subscription, named like it; changed only through the subscription. */
  backlog: boolean
  createdAt: Date
  updatedAt: Date
}

export type QueueCounts = { ready: number; delayed: number; leased: number; dead: number }

/** `stats` of one queue. Rates are messages per second over the last minute over all gateways. */
export type QueueStats = QueueCounts & {
  oldestReadyAgeS: number
  inRate: number
  outRate: number
  /** Seconds until the queue is empty at these rates; null when it does not drain. */
  drainS: number | null
  /** Seconds of a consumer that a message takes; null while nothing was measured. */
  serviceS: number | null
  desiredConsumers: number
}

const SECOND = 1000
const DAY = 86_400 * SECOND
const YEAR = 365 * DAY

export const limits = {
  leaseMs: { min: SECOND, max: 12 * 3600 * SECOND },
  maxAttempts: { min: 1, max: 1000 },
  delayMs: { min: 0, max: 10 * YEAR },
  ttlMs: { min: SECOND, max: 10 * YEAR },
  dedupWindowMs: { min: 0, max: 30 * DAY },
  backoffMs: { min: 0, max: 30 * DAY },
  backoffFactor: { min: 1, max: 100 },
  maxMessages: { min: 1, max: 1_000_000_000 },
  maxBytes: { min: 1, max: Number.MAX_SAFE_INTEGER },
  maxLeased: { min: 1, max: 1_000_000 },
} as const

export const defaultSettings: QueueSettings = {
  order: 'fifo',
  leaseMs: 30 * SECOND,
  maxAttempts: 10,
  delayMs: 0,
  ttlMs: 14 * DAY,
  backoff: null,
  deadLetterQueue: null,
  deadLetterExpired: false,
  maxMessages: null,
  maxBytes: null,
  overflow: 'reject',
  dedupWindowMs: 300 * SECOND,
  maxLeased: null,
  paused: false,
  onDead: 'continue',
  fair: false,
}

/** Queue, topic and schedule names. */
export const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$/
