/** The tables of topics, webhook subscriptions, schedules and tasks; see tables.ts. */
import { isNotNull, sql } from 'drizzle-orm'
import {
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

export const topics = postern.table(
  'topics',
  {
    id: integer('id').primaryKey().generatedAlwaysAsIdentity(),
    name: text('name').notNull(),
    /** Goes up with every change of the topic, its bindings or its subscriptions; a publish says which it was routed by. */
    version: whole('version').notNull().default(1),
    retentionMs: whole('retention_ms').notNull(),
    dedupWindowMs: whole('dedup_window_ms').notNull(),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow(),
  },
  (t) => [uniqueIndex('topics_name').on(t.name)],
)

export const bindings = postern.table(
  'bindings',
  {
    topicId: integer('topic_id').notNull(),
    name: text('name').notNull(),
    queueId: integer('queue_id').notNull(),
    pattern: text('pattern').notNull(),
    filter: jsonb('filter').$type<Record<string, unknown>>(),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow(),
  },
  (t) => [primaryKey({ columns: [t.topicId, t.name] }), index('bindings_queue').on(t.queueId)],
)

/** Published messages: bodies that many copies share, and what may be replayed. `id` is the id of every copy. */
export const topicLog = postern.table(
  'topic_log',
  {
    id: whole('id').primaryKey(),
    topicId: integer('topic_id').notNull(),
    publishedAt: instant('published_at').notNull(),
    /** Kept as long, and then as long as a copy refers to it. */
    keepUntil: instant('keep_until').notNull(),
    lane: smallint('lane').notNull(),
    routingKey: text('routing_key').notNull(),
    contentType: text('content_type').notNull(),
    key: text('key'),
    headers: jsonb('headers').$type<Record<string, string>>(),
    body: bytea('body').notNull(),
  },
  (t) => [
    index('topic_log_published').on(t.topicId, t.publishedAt, t.id),
    index('topic_log_keep_until').on(t.keepUntil, t.id),
  ],
)

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

export const schedules = postern.table(
  'schedules',
  {
    name: text('name').primaryKey(),
    cron: text('cron').notNull(),
    timezone: text('timezone').notNull(),
    /** By name, so that a queue or topic that is made anew is found again. One of the two. */
    queue: text('queue'),
    topic: text('topic'),
    routingKey: text('routing_key'),
    contentType: text('content_type').notNull(),
    key: text('key'),
    headers: jsonb('headers').$type<Record<string, string>>(),
    body: bytea('body').notNull(),
    priority: smallint('priority').notNull(),
    delayMs: whole('delay_ms'),
    ttlMs: whole('ttl_ms'),
    misfire: text('misfire', { enum: ['skip', 'once'] }).notNull(),
    paused: boolean('paused').notNull(),
    /** Whole milliseconds. null: paused, or never again. */
    nextFireAt: instant('next_fire_at'),
    lastFireAt: instant('last_fire_at'),
    lastMessageId: text('last_message_id'),
    lastError: text('last_error'),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow(),
  },
  (t) => [index('schedules_next_fire').on(t.nextFireAt).where(isNotNull(t.nextFireAt))],
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

/** Gateways that run, or did so within the last hour. What one owns is free as soon as its time is over. */
export const gateways = postern.table(
  'gateways',
  {
    id: text('id').primaryKey(),
    aliveUntil: instant('alive_until').notNull(),
    /** It has no share of the webhooks: it delivers none, or it stops and keeps only what it has not released yet. */
    leaving: boolean('leaving').notNull().default(false),
    /** What it understands of what others store, see `presence`. 0: it is older than this column, and says nothing. */
    protocol: smallint('protocol').notNull().default(0),
  },
  // Empty as a rule, whatever lies dead in the table: leases look into it.
  (t) => [index('gateways_behind').on(t.id).where(sql`${t.protocol} < 2`)],
)

/**
 * Work on many messages that goes on after its request was answered. One gateway at a time holds a task, until `leased_until`; whoever
 * holds it next goes on from the cursor, which each step moves together with the messages.
 */
export const tasks = postern.table(
  'tasks',
  {
    id: integer('id').primaryKey().generatedAlwaysAsIdentity(),
    /** `task_…`, as callers know it. */
    name: text('name').notNull(),
    kind: text('kind', { enum: ['redrive'] }).notNull(),
    /** Names stay readable when the queues are gone. */
    queueId: integer('queue_id').notNull(),
    queue: text('queue').notNull(),
    /** null: each letter goes to its origin. */
    targetId: integer('target_id'),
    target: text('target'),
    /** The queues whose letters among the ready messages may go back to them. null: ready messages are left alone. */
    originIds: integer('origin_ids').array(),
    filter: jsonb('filter').$type<Record<string, unknown>>().notNull(),
    most: whole('most'),
    rateCount: integer('rate_count'),
    ratePerMs: whole('rate_per_ms'),
    dryRun: boolean('dry_run').notNull(),
    state: text('state', { enum: ['running', 'done', 'cancelled', 'failed'] })
      .notNull()
      .default('running'),
    /** Where it goes on: the table it is in, and the last place that is dealt with. */
    at: text('at', { enum: ['dead', 'messages'] })
      .notNull()
      .default('dead'),
    atFirst: doublePrecision('at_first').notNull(),
    atSecond: whole('at_second').notNull(),
    /** Only what lies at positions up to it: what dies again meanwhile is not taken twice. */
    upTo: whole('up_to').notNull(),
    scanned: whole('scanned').notNull().default(0),
    matched: whole('matched').notNull().default(0),
    moved: whole('moved').notNull().default(0),
    skipped: whole('skipped').notNull().default(0),
    /** Why it failed; while it runs, what it waits for. */
    error: text('error'),
    owner: text('owner'),
    leasedUntil: instant('leased_until').notNull().default(new Date(0)),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow(),
    finishedAt: instant('finished_at'),
  },
  (t) => [
    uniqueIndex('tasks_name').on(t.name),
    index('tasks_running').on(t.id).where(sql`${t.state} = 'running'`),
    index('tasks_finished').on(t.finishedAt).where(isNotNull(t.finishedAt)),
  ],
)
