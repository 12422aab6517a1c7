/** A queue's settings as callers write and read them: snake_case, durations as text, `null` to take an optional one back. */
import { z } from '@hono/zod-openapi'
import type { QueueWithCounts } from '../broker/index.ts'
import { type Backoff, formatDuration, limits, type QueueSettings } from '../model/index.ts'
import { duration, durationOut, integer, name, timeOut } from './fields.ts'

const HOUR_MS = 3_600_000
/** What a backoff has that gives only its base. */
const backoffDefaults = { maxMs: HOUR_MS, factor: 2, jitter: 0.2 }

const number = ({ min, max }: { min: number; max: number }) =>
  z
    .number(`must be a number from ${min} to ${max}`)
    .min(min, `must be at least ${min}`)
    .max(max, `must be at most ${max}`)
const flag = z.boolean('must be true or false')

const backoff = z
  .strictObject(
    {
      base: duration(limits.backoffMs),
      max: duration(limits.backoffMs).optional(),
      factor: number(limits.backoffFactor).optional(),
      jitter: number({ min: 0, max: 1 }).optional(),
    },
    { error: objectError('must be an object with base, and optionally max, factor, jitter') },
  )
  .transform(({ base, max, factor, jitter }, context): Backoff => {
    if (max !== undefined && max < base)
      context.addIssue({ code: 'custom', path: ['max'], message: 'must not be less than base' })
    return {
      baseMs: base,
      maxMs: max ?? Math.max(base, backoffDefaults.maxMs),
      factor: factor ?? backoffDefaults.factor,
      jitter: jitter ?? backoffDefaults.jitter,
    }
  })
  .openapi('Backoff', {
    description:
      'Delay before a message is handed out again after an expired lease, or a nack without a delay: min(max, base * factor^(attempts-1)), less up to jitter (0–1) of it at random. Without them: max 1h (at least base), factor 2, jitter 0.2.',
  })

/** Only what was given; the broker keeps the rest. */
export const settingsIn = z
  .strictObject(
    {
      order: z.enum(['fifo', 'lifo', 'keyed'], 'must be fifo, lifo or keyed').optional(),
      lease: duration(limits.leaseMs).optional(),
      max_attempts: integer(limits.maxAttempts).optional(),
      delay: duration(limits.delayMs).optional(),
      ttl: duration(limits.ttlMs).optional(),
      backoff: backoff.nullable().optional(),
      dead_letter_queue: name.nullable().optional(),
      dead_letter_expired: flag.optional(),
      max_messages: integer(limits.maxMessages).nullable().optional(),
      max_bytes: integer(limits.maxBytes).nullable().optional(),
      overflow: z.enum(['reject', 'drop_oldest'], 'must be reject or drop_oldest').optional(),
      dedup_window: duration(limits.dedupWindowMs).optional(),
      max_leased: integer(limits.maxLeased).nullable().optional(),
      paused: flag.optional(),
      on_dead: z.enum(['continue', 'block'], 'must be continue or block').optional().openapi({
        description: 'Of a keyed queue: whether a key goes on after a dead letter, or waits until it is unblocked.',
      }),
      fair: flag.optional().openapi({
        description:
          'Of a fifo queue: keys take turns of up to 32 messages. Of each key so many at most are ready at a time, and the next come in behind all that is ready by then, so a new message waits for at most 32 of each other key, however many that has; not counted are higher priorities and what is retried.',
      }),
    },
    { error: objectError('must be an object of settings') },
  )
  .transform((given) =>
    withoutUndefined({
      order: given.order,
      leaseMs: given.lease,
      maxAttempts: given.max_attempts,
      delayMs: given.delay,
      ttlMs: given.ttl,
      backoff: given.backoff,
      deadLetterQueue: given.dead_letter_queue,
      deadLetterExpired: given.dead_letter_expired,
      maxMessages: given.max_messages,
      maxBytes: given.max_bytes,
      overflow: given.overflow,
      dedupWindowMs: given.dedup_window,
      maxLeased: given.max_leased,
      paused: given.paused,
      onDead: given.on_dead,
      fair: given.fair,
    } satisfies { [K in keyof Required<QueueSettings>]: QueueSettings[K] | undefined }),
  )
  .openapi('QueueSettings', {
    description: 'All optional. What is not given keeps its value; null takes an optional setting back.',
  })

/** One text for an unknown field (which names itself) and another for what is no object at all. */
function objectError(text: string): (issue: { code?: string }) => string | undefined {
  return (issue) => (issue.code === 'invalid_type' ? text : undefined)
}

function withoutUndefined(
  settings: { [K in keyof QueueSettings]: QueueSettings[K] | undefined },
): Partial<QueueSettings> {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined))
}

export const countsOut = z
  .strictObject({ ready: z.int(), delayed: z.int(), leased: z.int(), dead: z.int() })
  .openapi('QueueCounts')

export const queueOut = z
  .strictObject({
    name: z.string(),
    order: z.enum(['fifo', 'lifo', 'keyed']),
    lease: durationOut,
    max_attempts: z.int(),
    delay: durationOut,
    ttl: durationOut,
    backoff: z.strictObject({ base: durationOut, max: durationOut, factor: z.number(), jitter: z.number() }).nullable(),
    dead_letter_queue: z.string().nullable(),
    dead_letter_expired: z.boolean(),
    max_messages: z.int().nullable(),
    max_bytes: z.int().nullable(),
    overflow: z.enum(['reject', 'drop_oldest']),
    dedup_window: durationOut,
    max_leased: z.int().nullable(),
    paused: z.boolean(),
    on_dead: z.enum(['continue', 'block']),
    fair: z.boolean(),
    counts: countsOut,
    created_at: timeOut,
    updated_at: timeOut,
  })
  .openapi('Queue')

export function queueJson(queue: QueueWithCounts): z.input<typeof queueOut> {
  const { backoff, counts } = queue
  return {
    name: queue.name,
    order: queue.order,
    lease: formatDuration(queue.leaseMs),
    max_attempts: queue.maxAttempts,
    delay: formatDuration(queue.delayMs),
    ttl: formatDuration(queue.ttlMs),
    backoff: backoff && {
      base: formatDuration(backoff.baseMs),
      max: formatDuration(backoff.maxMs),
      factor: backoff.factor,
      jitter: backoff.jitter,
    },
    dead_letter_queue: queue.deadLetterQueue,
    dead_letter_expired: queue.deadLetterExpired,
    max_messages: queue.maxMessages,
    max_bytes: queue.maxBytes,
    overflow: queue.overflow,
    dedup_window: formatDuration(queue.dedupWindowMs),
    max_leased: queue.maxLeased,
    paused: queue.paused,
    on_dead: queue.onDead,
    fair: queue.fair,
    counts: { ready: counts.ready, delayed: counts.delayed, leased: counts.leased, dead: counts.dead },
    created_at: queue.createdAt.toISOString(),
    updated_at: queue.updatedAt.toISOString(),
  }
}
