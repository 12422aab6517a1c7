/** The tables of webhooks: subscriptions, what signs for them, who delivers, and what came of it. See tables.ts. */
import { isNotNull } from 'drizzle-orm'
import { boolean, index, integer, jsonb, smallint, text, uniqueIndex } from 'drizzle-orm/pg-core'
import { bytea, instant, postern, whole } from './columns.ts'

export const subscriptions = postern.table(
  'subscriptions',
  {
    id: integer('id').primaryKey().generatedAlwaysAsIdentity(),
    /** `sub_…`, as callers know it. */
    name: text('name').notNull(),
    title: text('title'),
    /** What it delivers from: a queue it shares, or the backlog of its own. */
    queueId: integer('queue_id').notNull(),
    /** The next three only on a topic. */
    topicId: integer('topic_id'),
    pattern: text('pattern'),
    filter: jsonb('filter').$type<Record<string, unknown>>(),
    url: text('url').notNull(),
    format: text('format', { enum: ['raw', 'cloudevents', 'envelope'] }).notNull(),
    headers: jsonb('headers').$type<Record<string, string>>().notNull(),
    timeoutMs: integer('timeout_ms').notNull(),
    concurrency: integer('concurrency').notNull(),
    rateCount: integer('rate_count'),
    ratePerMs: whole('rate_per_ms'),
    retry: jsonb('retry').$type<Record<string, unknown>>().notNull(),
    maxAttempts: smallint('max_attempts'),
    disabled: text('disabled', { enum: ['requested', 'gone', 'failing'] }),
    /** Goes up with every change by a caller. */
    version: whole('version').notNull().default(1),
    /** The gateway that delivers; holds as long as that gateway's row is alive. */
    owner: text('owner'),
    /** How the endpoint has been doing, as its owner last said. */
    circuit: text('circuit', { enum: ['closed', 'open', 'half_open'] })
      .notNull()
      .default('closed'),
    failures: integer('failures').notNull().default(0),
    failingSince: instant('failing_since'),
    heldUntil: instant('held_until'),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('subscriptions_name').on(t.name),
    index('subscriptions_queue').on(t.queueId),
    index('subscriptions_topic').on(t.topicId).where(isNotNull(t.topicId)),
    index('subscriptions_owner').on(t.owner),
  ],
)

/** Signing secrets. They are kept as they are, for they must sign. */
export const subscriptionSecrets = postern.table(
  'subscription_secrets',
  {
    id: whole('id').primaryKey().generatedAlwaysAsIdentity(),
    subscriptionId: integer('subscription_id').notNull(),
    secret: text('secret').notNull(),
    createdAt: instant('created_at').notNull().defaultNow(),
    /** null: the present one. */
    expiresAt: instant('expires_at'),
  },
  (t) => [index('subscription_secrets_subscription').on(t.subscriptionId, t.id)],
)

/** One row for each HTTP call of a webhook. */
export const attempts = postern.table(
  'attempts',
  {
    id: whole('id').primaryKey().generatedAlwaysAsIdentity(),
    subscriptionId: integer('subscription_id').notNull(),
    messageId: whole('message_id').notNull(),
    attempt: smallint('attempt').notNull(),
    at: instant('at').notNull(),
    succeeded: boolean('succeeded').notNull(),
    status: smallint('status'),
    durationMs: integer('duration_ms').notNull(),
    requestHeaders: jsonb('request_headers').$type<Record<string, string>>().notNull(),
    responseHeaders: jsonb('response_headers').$type<Record<string, string>>().notNull(),
    responseBody: bytea('response_body').notNull(),
    error: text('error'),
    nextAttemptAt: instant('next_attempt_at'),
  },
  (t) => [index('attempts_subscription').on(t.subscriptionId, t.id)],
)

/** Gateways that deliver to webhooks. What one owns is free as soon as its time is over. */
export const gateways = postern.table('gateways', {
  id: text('id').primaryKey(),
  aliveUntil: instant('alive_until').notNull(),
  /** It stops: it keeps what it has not released yet, and has no share any more. */
  leaving: boolean('leaving').notNull().default(false),
})
