/** A subscription as callers write and read it: snake_case, durations and the rate as text, `null` to take an optional setting back. */
import { z } from '@hono/zod-openapi'
import { setOwn } from '../base/index.ts'
import type { SubscriptionWithCounts } from '../broker/index.ts'
import {
  configuredHeaderError,
  defaultRetry,
  formatDuration,
  formatRate,
  type Headers,
  messageLimits,
  type Retry,
  type SubscriptionSettings,
  type SubscriptionSource,
  subscriptionFormats,
  subscriptionLimits,
  urlError,
} from '../model/index.ts'
import { duration, durationOut, integer, isObject, name, rateIn, rateOut, shortText, timeOut } from './fields.ts'
import { filterIn, filterOut, patternIn, patternOut, textWithout } from './interest.ts'
import { countsOut } from './queue_settings.ts'
import { objectOf } from './route.ts'

const HOUR_MS = 3_600_000
/** What a backoff has that gives only its base. */
const backoffDefaults = { maxMs: 24 * HOUR_MS, factor: 2 }

const url = textWithout(urlError).openapi({
  type: 'string',
  format: 'uri',
  maxLength: subscriptionLimits.urlLength,
  example: 'https://example.com/hooks',
  description: 'http or https, without credentials.',
})

const headers = z
  .unknown()
  .transform((value, context): Headers => {
    const { checked, errors } = checkConfigured(value)
    for (const { path, detail } of errors) context.addIssue({ code: 'custom', path, message: detail })
    return checked
  })
  .openapi({
    type: 'object',
    additionalProperties: { type: 'string' },
    description: `Sent with every delivery, over the message's own. At most ${subscriptionLimits.headers}, ${messageLimits.headerBytes} bytes in total. Replaced as a whole.`,
    example: { authorization: 'Bearer SECRET' },
  })

type HeaderIssue = { path: string[]; detail: string }

/** Names in lower case. */
function checkConfigured(value: unknown): { checked: Headers; errors: HeaderIssue[] } {
  const checked: Headers = {}
  const errors: HeaderIssue[] = []
  if (!isObject(value)) return { checked, errors: [{ path: [], detail: 'must be an object of strings' }] }
  const entries = Object.entries(value)
  let bytes = 0
  for (const [given, text] of entries) {
    const lower = given.toLowerCase()
    const wrong = configuredHeaderError(lower, text) ?? (Object.hasOwn(checked, lower) ? 'is given twice' : null)
    if (wrong !== null) errors.push({ path: [given], detail: wrong })
    else setOwn(checked, lower, String(text))
    bytes += Buffer.byteLength(lower) + Buffer.byteLength(String(text))
  }
  const { headers: most } = subscriptionLimits
  if (entries.length > most) errors.push({ path: [], detail: `must be at most ${most} headers` })
  if (bytes > messageLimits.headerBytes)
    errors.push({ path: [], detail: `must be at most ${messageLimits.headerBytes} bytes in total` })
  return { checked, errors }
}

const rate = rateIn(subscriptionLimits.rateCount.max)

const wait = duration(subscriptionLimits.waitMs)
const { min: minFactor, max: maxFactor } = subscriptionLimits.factor
const factorText = `must be a number from ${minFactor} to ${maxFactor}`

const retry = objectOf(
  {
    schedule: z
      .array(wait, 'must be an array of durations')
      .min(1, 'must not be empty')
      .max(subscriptionLimits.scheduleWaits, `must be at most ${subscriptionLimits.scheduleWaits} durations`)
      .optional(),
    base: wait.optional(),
    max: wait.optional(),
    factor: z.number(factorText).min(minFactor, factorText).max(maxFactor, factorText).optional(),
  },
  'must be an object with schedule, or with base and optionally max and factor',
)
  .transform(({ schedule, base, max, factor }, context): Retry => {
    const issue = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message })
    if (schedule) {
      for (const [key, value] of Object.entries({ base, max, factor }))
        if (value !== undefined) issue([key], 'excludes schedule: give one of them')
      return { kind: 'schedule', scheduleMs: schedule }
    }
    if (base === undefined) issue([], 'must have schedule or base')
    else if (max !== undefined && max < base) issue(['max'], 'must not be less than base')
    const baseMs = base ?? 0
    return {
      kind: 'backoff',
      baseMs,
      maxMs: max ?? Math.max(baseMs, backoffDefaults.maxMs),
      factor: factor ?? backoffDefaults.factor,
    }
  })
  .openapi('Retry', {
    description:
      'The waits after the first failed attempt, the second …, or min(max, base * factor^(attempt-1)) with max 24h and factor 2 unless given; each ±20 % at random. null: 5s 5m 30m 2h 5h 10h 14h 20h 24h.',
  })

const settings = {
  name: shortText.nullish(),
  format: z.enum(subscriptionFormats, `must be one of ${subscriptionFormats.join(', ')}`).optional(),
  headers: headers.optional(),
  timeout: duration(subscriptionLimits.timeoutMs).optional(),
  concurrency: integer(subscriptionLimits.concurrency).optional(),
  rate: rate.nullish().openapi({ type: ['string', 'null'] }),
  retry: retry.nullish(),
  max_attempts: integer(subscriptionLimits.maxAttempts)
    .nullish()
    .openapi({ description: 'null: one more than the schedule has waits; 10 with a backoff.' }),
}

type Given = Omit<{ [K in keyof typeof settings]?: z.output<(typeof settings)[K]> }, 'max_attempts'> & {
  max_attempts?: number | null | undefined
  url?: string | undefined
}

/** Only what was given. */
function settingsOf(given: Given): Partial<SubscriptionSettings> {
  const { timeout: timeoutMs, max_attempts: maxAttempts, name, url, format, headers, concurrency, rate } = given
  const retry = given.retry === null ? defaultRetry : given.retry
  const all = { name, url, format, headers, timeoutMs, concurrency, rate, retry, maxAttempts }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
}

type NewSubscription = {
  source: SubscriptionSource
  settings: Partial<SubscriptionSettings> & Pick<SubscriptionSettings, 'url'>
}

export const subscriptionIn = objectOf(
  {
    queue: name.optional(),
    topic: name.optional(),
    pattern: patternIn.optional().openapi({ default: '#' }),
    filter: filterIn.optional(),
    url,
    ...settings,
  },
  'must be an object with queue or topic, url, and optionally settings',
)
  .transform((given, context): NewSubscription => {
    const { queue, topic, pattern, filter } = given
    const issue = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message })
    const chosen = { ...settingsOf(given), url: given.url }
    if (topic !== undefined && queue === undefined)
      return { source: { topic, pattern: pattern ?? '#', filter: filter ?? null }, settings: chosen }
    if (queue === undefined || topic !== undefined) issue('queue', 'exactly one of queue and topic is needed')
    else {
      for (const [field, value] of Object.entries({ pattern, filter }))
        if (value !== undefined) issue(field, 'only a subscription on a topic has one')
    }
    return { source: { queue: queue ?? '' }, settings: chosen }
  })
  .openapi('NewSubscription', { description: 'Exactly one of queue and topic; pattern and filter only with topic.' })

export const changesIn = objectOf(
  {
    queue: name.optional().openapi({ description: 'As it is: fixed at creation.' }),
    topic: name.optional().openapi({ description: 'As it is: fixed at creation.' }),
    pattern: patternIn.optional(),
    filter: filterIn.optional(),
    url: url.optional(),
    ...settings,
  },
  'must be an object of settings',
)
  .transform((given) => {
    const { queue, topic, pattern, filter } = given
    const interest = { ...(pattern === undefined ? {} : { pattern }), ...(filter === undefined ? {} : { filter }) }
    return { queue, topic, changes: { ...settingsOf(given), ...interest } }
  })
  .openapi('SubscriptionSettings', {
    description: 'All optional. What is not given keeps its value; null takes an optional setting back.',
  })

const retryOut = z.union([
  z.strictObject({ schedule: z.array(durationOut) }),
  z.strictObject({ base: durationOut, max: durationOut, factor: z.number() }),
])

const shape = {
  id: z.string().openapi({ example: 'sub_0b1c2d3e4f5a6b7c8d9e' }),
  name: z.string().nullable(),
  queue: z.string().optional().openapi({ description: 'What it delivers: exactly one of queue and topic is there.' }),
  topic: z.string().optional(),
  pattern: patternOut.optional().openapi({ description: 'With topic, as the next two.' }),
  filter: filterOut.optional(),
  backlog_queue: z
    .string()
    .optional()
    .openapi({ description: 'The queue that keeps its messages and dead letters until they are delivered.' }),
  url: z.string(),
  format: z.enum(subscriptionFormats),
  headers: z.record(z.string(), z.string()),
  timeout: durationOut,
  concurrency: z.int(),
  rate: rateOut,
  retry: retryOut,
  max_attempts: z.int().nullable(),
  status: z.enum(['enabled', 'disabled']),
  disabled_reason: z.enum(['requested', 'gone', 'failing']).nullable(),
  circuit: z.enum(['closed', 'open', 'half_open']),
  consecutive_failures: z.int(),
  failing_since: timeOut.nullable(),
  held_until: timeOut.nullable().openapi({ description: 'Nothing is sent before.' }),
  counts: countsOut,
  created_at: timeOut,
  updated_at: timeOut,
}

export const subscriptionOut = z.strictObject(shape).openapi('Subscription')
export const createdOut = z
  .strictObject({
    ...shape,
    secret: z.string().openapi({
      description: 'Signs every delivery (Standard Webhooks); shown here and by …/secret only.',
      example: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    }),
  })
  .openapi('CreatedSubscription')

const hidden: ReadonlySet<string> = new Set(['authorization', 'proxy-authorization', 'cookie'])

/** For eyes that may look and not change. */
export const withoutCredentials = (headers: Headers): Headers =>
  Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, hidden.has(name.toLowerCase()) ? '(hidden)' : value]),
  )

/** `mayManage`: also sees the credentials among the configured headers. */
export function subscriptionJson(
  subscription: SubscriptionWithCounts,
  mayManage: boolean,
): z.input<typeof subscriptionOut> {
  const { source, health, counts, rate, disabled } = subscription
  return {
    id: subscription.id,
    name: subscription.name,
    ...('queue' in source
      ? { queue: source.queue }
      : { topic: source.topic, pattern: source.pattern, filter: source.filter, backlog_queue: subscription.queue }),
    url: subscription.url,
    format: subscription.format,
    headers: mayManage ? subscription.headers : withoutCredentials(subscription.headers),
    timeout: formatDuration(subscription.timeoutMs),
    concurrency: subscription.concurrency,
    rate: rate && formatRate(rate),
    retry: retryJson(subscription.retry),
    max_attempts: subscription.maxAttempts,
    status: disabled === null ? 'enabled' : 'disabled',
    disabled_reason: disabled,
    circuit: health.circuit,
    consecutive_failures: health.failures,
    failing_since: health.failingSince?.toISOString() ?? null,
    held_until: health.heldUntil?.toISOString() ?? null,
    counts: { ready: counts.ready, delayed: counts.delayed, leased: counts.leased, dead: counts.dead },
    created_at: subscription.createdAt.toISOString(),
    updated_at: subscription.updatedAt.toISOString(),
  }
}

const retryJson = (retry: Retry): z.input<typeof retryOut> =>
  retry.kind === 'schedule'
    ? { schedule: retry.scheduleMs.map(formatDuration) }
    : { base: formatDuration(retry.baseMs), max: formatDuration(retry.maxMs), factor: retry.factor }
