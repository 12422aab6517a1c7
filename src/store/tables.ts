/**
 * The tables, from which drizzle-kit generates migrations. Storage parameters and comments that drizzle cannot say
 * are in the custom migration beside the generated one. The measurements behind this layout are in README.md,
 * "How it works".
 */
import { isNotNull, sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  doublePrecision,
  index,
  integer,
  jsonb,
  primaryKey,
  smallint,
  text,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { bytea, instant, postern, whole } from './columns.ts'

/** Order inside a lane, and the first position of a message is its id. Not cached: positions follow the order of commits, roughly. */
export const messagePosition = postern.sequence('message_position', { cache: 1 })

export const queues = postern.table(
  'queues',
  {
    id: integer('id').primaryKey().generatedAlwaysAsIdentity(),
    name: text('name').notNull(),
    order: text('order', { enum: ['fifo', 'lifo', 'keyed'] }).notNull(),
    leaseMs: integer('lease_ms').notNull(),
    maxAttempts: smallint('max_attempts').notNull(),
    delayMs: whole('delay_ms').notNull(),
    ttlMs: whole('ttl_ms').notNull(),
    /** All four or none. */
    backoffBaseMs: whole('backoff_base_ms'),
    backoffMaxMs: whole('backoff_max_ms'),
    backoffFactor: doublePrecision('backoff_factor'),
    backoffJitter: doublePrecision('backoff_jitter'),
    deadLetterQueueId: integer('dead_letter_queue_id'),
    deadLetterExpired: boolean('dead_letter_expired').notNull(),
    maxMessages: whole('max_messages'),
    maxBytes: whole('max_bytes'),
    overflow: text('overflow', { enum: ['reject', 'drop_oldest'] }).notNull(),
    dedupWindowMs: whole('dedup_window_ms').notNull(),
    maxLeased: integer('max_leased'),
    paused: boolean('paused').notNull(),
    /** Of a keyed queue: whether a key goes on after a dead letter. */
    onDead: text('on_dead', { enum: ['continue', 'block'] })
      .notNull()
      .default('continue'),
    /** Of a fifo queue: keys take turns. */
    fair: boolean('fair').notNull().default(false),
    /** The backlog of a topic's subscription, named like it: not listed, and changed only through the subscription. */
    backlog: boolean('backlog').notNull().default(false),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('queues_name').on(t.name),
    index('queues_dead_letter_queue').on(t.deadLetterQueueId).where(isNotNull(t.deadLetterQueueId)),
  ],
)

/** What a message is, wherever it lies: the same columns in `messages`, `scheduled` and `dead`. */
const payload = () => ({
  /** Positions count up; on a lifo queue they are negative, so that the newest comes first. */
  position: whole('position').notNull(),
  /** The absolute value of the first position; never changes. */
  id: whole('id').notNull(),
  enqueuedAt: instant('enqueued_at').notNull(),
  expiresAt: instant('expires_at').notNull(),
  queueId: integer('queue_id').notNull(),
  lane: smallint('lane').notNull(),
  attempts: smallint('attempts').notNull().default(0),
  /** The body lies in `topic_log`, once for all copies. Never set in `dead`. */
  logId: whole('log_id'),
  contentType: text('content_type').notNull(),
  key: text('key'),
  headers: jsonb('headers').$type<Record<string, string>>(),
  body: bytea('body'),
})

/** On a keyed queue, of the first message of its key and of those leased together with it: its place in the order of the key. */
const chain = () => whole('chain')

/** Ready and leased messages. A lease changes `lease_token`, `leased_until` and `attempts` only: no index may contain them. */
export const messages = postern.table(
  'messages',
  {
    /** 0: ready. */
    leaseToken: whole('lease_token').notNull().default(0),
    leasedUntil: instant('leased_until').notNull().default(new Date(0)),
    chain: chain(),
    /** Of a message leased behind the first of its key: the place of that first one. */
    follows: whole('follows'),
    ...payload(),
  },
  (t) => [
    primaryKey({ columns: [t.queueId, t.lane, t.position] }),
    /** Only messages that have moved (retried, promoted, dead-lettered): the others are found by their first position. */
    index('messages_moved').on(t.id).where(sql`${t.id} <> abs(${t.position})`),
    /** Whoever means it says `queue_id + 0`: tables whose statistics lie must leave the planner no other index to take. */
    index('messages_of_key').on(sql`(${t.queueId} + 0)`, t.key, t.chain).where(isNotNull(t.chain)),
    /** Tells whether anybody still needs a body of `topic_log`. */
    index('messages_log').on(t.logId).where(isNotNull(t.logId)),
  ],
)

/** Delayed and backing-off messages, until they are due. */
export const scheduled = postern.table(
  'scheduled',
  { dueAt: instant('due_at').notNull(), chain: chain(), ...payload() },
  (t) => [
    primaryKey({ columns: [t.dueAt, t.position] }),
    index('scheduled_queue').on(t.queueId, t.dueAt, t.position),
    index('scheduled_id').on(t.id),
    index('scheduled_of_key').on(sql`(${t.queueId} + 0)`, t.key, t.chain).where(isNotNull(t.chain)),
    index('scheduled_log').on(t.logId).where(isNotNull(t.logId)),
  ],
)

/**
 * On keyed queues: messages behind the first of their key and those leased with it, which alone are in `messages` or `scheduled`. On
 * fair ones: behind the first few of their key. Positions of one key follow the order of commits, because senders hold the key's lock.
 */
export const waiting = postern.table(
  'waiting',
  { ...payload(), dueAt: instant('due_at').notNull(), key: text('key').notNull() },
  (t) => [
    primaryKey({ columns: [t.queueId, t.key, t.position] }),
    index('waiting_place').on(sql`(${t.queueId} + 0)`, sql`(${t.position} + 0)`),
    index('waiting_moved').on(t.id).where(sql`${t.id} <> ${t.position}`),
  ],
)

/** Keys that dead letters (several, when their run had been leased together) have stopped, until somebody says how to go on. */
export const blockedKeys = postern.table(
  'blocked_keys',
  {
    queueId: integer('queue_id').notNull(),
    key: text('key').notNull(),
    /** The place of the dead letter in the order of its key. */
    chain: whole('chain').notNull(),
    messageId: whole('message_id').notNull(),
    reason: text('reason').notNull(),
    lastError: text('last_error'),
    blockedAt: instant('blocked_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.queueId, t.key, t.chain] })],
)

/** One row for each lease statement, or for each queue and lane of it: expiry finds its messages here and never scans them. */
export const leases = postern.table(
  'leases',
  {
    expiresAt: instant('expires_at').notNull(),
    token: whole('token').notNull(),
    queueId: integer('queue_id').notNull(),
    lane: smallint('lane').notNull(),
    positions: bigint('positions', { mode: 'number' }).array().notNull(),
    /** Of a row of several queues, whose `queueId` and `lane` are 0: those of each position. */
    queueIds: integer('queue_ids').array(),
    lanes: smallint('lanes').array(),
  },
  (t) => [
    primaryKey({ columns: [t.expiresAt, t.token, t.queueId, t.lane] }),
    index('leases_queue').on(t.queueId, t.expiresAt),
  ],
)

/** Receives with an Idempotency-Key, and what they leased: a retry is answered with what of it is still leased under the token. */
export const receiveRequests = postern.table(
  'receive_requests',
  {
    queueId: integer('queue_id').notNull(),
    /** SHA-256 of who asked and the key. */
    hash: bytea('hash').notNull(),
    token: whole('token').notNull(),
    lanes: smallint('lanes').array().notNull(),
    positions: bigint('positions', { mode: 'number' }).array().notNull(),
    /** The end of the leases, unless they were extended. */
    expiresAt: instant('expires_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.queueId, t.hash] }), index('receive_requests_expires').on(t.expiresAt)],
)

export const dead = postern.table(
  'dead',
  {
    diedAt: instant('died_at').notNull(),
    reason: text('reason', { enum: ['max_attempts', 'rejected', 'expired', 'gone'] }).notNull(),
    lastError: text('last_error'),
    /** The name of the queue in which it died. */
    origin: text('origin').notNull(),
    ...payload(),
  },
  (t) => [primaryKey({ columns: [t.queueId, t.position] }), index('dead_id').on(t.id)],
)

/** Dedup ids within their window. A topic's are kept under its id, negated. */
export const dedup = postern.table(
  'dedup',
  {
    queueId: integer('queue_id').notNull(),
    dedupId: text('dedup_id').notNull(),
    messageId: whole('message_id').notNull(),
    expiresAt: instant('expires_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.queueId, t.dedupId] }), index('dedup_expires').on(t.expiresAt)],
)

/** What each gateway sent and settled in five seconds, for rates over the cluster, and how long consumers took. Kept for two minutes. */
export const rates = postern.table(
  'rates',
  {
    at: instant('at').notNull(),
    queueId: integer('queue_id').notNull(),
    gateway: text('gateway').notNull(),
    sent: integer('sent').notNull(),
    settled: integer('settled').notNull(),
    /** Receives of which something was settled for the first time, the messages that they brought, and how long they kept their consumers busy. */
    receives: integer('receives').notNull().default(0),
    received: integer('received').notNull().default(0),
    busyMs: whole('busy_ms').notNull().default(0),
  },
  (t) => [primaryKey({ columns: [t.queueId, t.at, t.gateway] }), index('rates_at').on(t.at)],
)

export const apiKeys = postern.table('api_keys', {
  id: text('id').primaryKey(),
  name: text('name').notNull(),
  /** SHA-256 of the whole secret, which is random: no salt or stretching is owed. */
  hash: bytea('hash').notNull(),
  scopes: jsonb('scopes').$type<{ actions: string[]; queues: string[]; topics: string[] }[]>().notNull(),
  createdAt: instant('created_at').notNull().defaultNow(),
  expiresAt: instant('expires_at'),
  /** Requests; none: the gateway's setting. */
  rateCount: integer('rate_count'),
  ratePerMs: whole('rate_per_ms'),
})

/** Secrets that all gateways share, such as the one under receipts. */
export const secrets = postern.table('secrets', { name: text('name').primaryKey(), value: bytea('value').notNull() })
