/** Topics: a name to publish to, and the bindings that say which queues get a copy. */
import type { Filter } from './filter.ts'

export type TopicSettings = {
  /** How long published messages are kept for replay; 0: no longer than somebody has yet to receive them. */
  retentionMs: number
  /** How long a repeated dedup id is taken for the same message. */
  dedupWindowMs: number
}

export type Topic = TopicSettings & { id: number; name: string; createdAt: Date; updatedAt: Date }

/** Which of a topic's messages are wanted: all that match both. */
export type Interest = {
  /** An AMQP topic pattern over the routing key; see routing_key.ts. */
  pattern: string
  filter: Filter | null
}

export type Binding = Interest & { name: string; topic: string; queue: string; createdAt: Date; updatedAt: Date }

/** `matched`: how many queues and subscriptions got a copy. */
export type Published = { id: string; matched: number; deduplicated: boolean }

const SECOND = 1000
const DAY = 86_400 * SECOND

export const topicLimits = {
  retentionMs: { min: 0, max: 365 * DAY },
  dedupWindowMs: { min: 0, max: 30 * DAY },
  /** Characters of a routing key and of a pattern, as AMQP's short strings (0-9-1, 4.2.5.3). */
  routingKeyLength: 255,
  /** Bindings and subscriptions of one topic. */
  interests: 10_000,
} as const

/** One hour: what a publisher sends in a day would surprise a small disk. */
export const defaultTopic: TopicSettings = { retentionMs: 3600 * SECOND, dedupWindowMs: 300 * SECOND }
