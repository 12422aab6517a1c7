/** The message and its states, as they pass between the edges and the broker. */

/** Retries are kept in a lane before the first deliveries of the same priority, and after those of higher ones. */
export type Lane = number

export const laneCount = 20
export const allLanes: readonly Lane[] = Array.from({ length: laneCount }, (_, lane) => lane)
/** Lanes are handed out in ascending order: priority 9 retries, priority 9, priority 8 retries … priority 0. */
export const laneOf = (priority: number, retry: boolean): Lane => (9 - priority) * 2 + (retry ? 0 : 1)
export const priorityOf = (lane: Lane): number => 9 - (lane >> 1)

export const messageLimits = {
  batchMessages: 1000,
  batchBytes: 10 * 1024 * 1024,
  answerBytes: 16 * 1024 * 1024,
  headers: 64,
  headerBytes: 16 * 1024,
  textLength: 255,
} as const

export type Headers = Record<string, string>

/** A message to be sent. `null` means: as the queue says. */
export type NewMessage = {
  body: Buffer
  contentType: string
  headers: Headers | null
  key: string | null
  /** 0–9, 9 first. */
  priority: number
  delayMs: number | null
  /** Milliseconds since 1970; instead of `delayMs`. */
  deliverAtMs: number | null
  ttlMs: number | null
  dedupId: string | null
}

/** What became of one sent message. `id` is the first message's when it is a duplicate. */
export type Sent = { id: string; availableAt: Date; deduplicated: boolean }

/** One lease of one message. */
export type Delivery = {
  id: string
  receipt: string
  body: Buffer
  contentType: string
  headers: Headers
  key: string | null
  priority: number
  attempt: number
  enqueuedAt: Date
  leaseExpiresAt: Date
}

export type MessageState = 'ready' | 'delayed' | 'leased' | 'dead'
export const messageStates: readonly MessageState[] = ['ready', 'delayed', 'leased', 'dead']
export const deathReasons = ['max_attempts', 'rejected', 'expired', 'gone'] as const
export type DeathReason = (typeof deathReasons)[number]

/** What a caller changes about a message that nobody holds. What is not given stays; at most one of the last two. */
export type MessageChanges = {
  body?: Buffer
  contentType?: string
  headers?: Headers | null
  priority?: number
  delayMs?: number
  /** Milliseconds since 1970. */
  deliverAtMs?: number
}

/** A message as it is seen without leasing it. */
export type StoredMessage = {
  id: string
  state: MessageState
  body: Buffer
  contentType: string
  headers: Headers
  key: string | null
  priority: number
  attempts: number
  enqueuedAt: Date
  expiresAt: Date | null
  /** When a delayed message becomes ready. */
  availableAt: Date | null
  leaseExpiresAt: Date | null
  dead: { reason: DeathReason; lastError: string | null; diedAt: Date; origin: string } | null
}

/** A key of a keyed or fair queue, and what has stopped it. */
export type QueueKey = {
  key: string
  /** Messages behind those that are under way. */
  waiting: number
  blocked: { since: Date; messageId: string; reason: DeathReason; lastError: string | null } | null
}

export type SettleAction =
  | { action: 'ack'; receipt: string }
  /** `delayMs` null: the queue's backoff. `error` is kept as the last one. */
  | { action: 'nack'; receipt: string; delayMs: number | null; error?: string }
  | { action: 'extend'; receipt: string; leaseMs: number }
  /** `death`: why it is a dead letter, when it was not the consumer who refused it. */
  | { action: 'reject'; receipt: string; reason: string | null; death?: 'gone' | 'max_attempts' }
  /** Ready again at once, uncounted: only for a message that provably went nowhere. */
  | { action: 'return'; receipt: string }

export type SettleOutcome = 'acked' | 'nacked' | 'extended' | 'rejected' | 'lease_lost' | 'invalid_receipt'
export type Settled = { receipt: string; outcome: SettleOutcome; leaseExpiresAt: Date | null }

const idPattern = /^msg_([0-9a-z]{11})$/

/** The public form of a message's first position: fixed width, so that ids sort in the order of sending. */
export const messageId = (position: number): string => `msg_${position.toString(36).padStart(11, '0')}`

/** The position inside an id, or null when the text is no id. */
export function parseMessageId(id: string): number | null {
  const digits = idPattern.exec(id)?.[1]
  if (digits === undefined) return null
  const position = Number.parseInt(digits, 36)
  return Number.isSafeInteger(position) && position > 0 ? position : null
}

/** What a filter sees of a body; undefined when it is not JSON. */
export function parsedJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'))
  } catch {
    return undefined
  }
}
