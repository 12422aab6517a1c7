/** A schedule as callers write and read it. */
import { z } from '@hono/zod-openapi'
import type { ScheduleWithFires } from '../broker/index.ts'
import {
  BrokerError,
  cronLimits,
  formatDuration,
  misfires,
  parseCron,
  routingKeyError,
  type ScheduleSettings,
  timezoneError,
  topicLimits,
} from '../model/index.ts'
import { messageFrom, newMessageFields } from './batch_items.ts'
import { jsonLimit } from './endpoint.ts'
import type { Exchange } from './exchange.ts'
import { durationOut, name, refuse, timeOut } from './fields.ts'
import { textWithout } from './interest.ts'
import { check, readJsonText } from './json_body.ts'
import { objectMembers } from './json_slices.ts'
import { bodyJson } from './message_out.ts'
import { objectOf } from './route.ts'

export const clockNotes =
  'When the clocks change: an entry for certain hours fires once for each wall-clock time it names. One that is skipped fires at the first moment after the gap; one that comes twice fires the first time. An entry for every hour (`*` in the hour field) follows real time, neither missing nor doubling an hour, and so does `@every`.'

const cron = textWithout((text) => {
  const parsed = parseCron(text)
  return 'error' in parsed ? parsed.error : null
}).openapi({
  type: 'string',
  maxLength: cronLimits.textLength,
  example: '30 8 * * MON-FRI',
  description:
    'Minute, hour, day of month, month, day of week; with six fields, seconds first. Names, ranges, lists and steps; when both day fields are restricted one of them is enough. Or `@hourly @daily @weekly @monthly @yearly`, or `@every 30s`.',
})

const timezone = textWithout(timezoneError).openapi({
  type: 'string',
  default: 'UTC',
  example: 'Europe/Berlin',
  description: 'IANA. Means nothing to `@every`.',
})

const misfire = z.enum(misfires, `must be one of ${misfires.join(', ')}`)

export const scheduleIn = objectOf(
  {
    cron,
    timezone: timezone.optional(),
    queue: name.optional(),
    topic: name.optional(),
    routing_key: textWithout(routingKeyError)
      .optional()
      .openapi({ type: 'string', maxLength: topicLimits.routingKeyLength, description: 'Only with topic.' }),
    ...newMessageFields,
    misfire: misfire.optional().openapi({
      default: 'skip',
      description:
        'What becomes of fires that came while no gateway ran. One that is at most a minute late still happens. Of older ones, skip forgets all; once sends one message for all.',
    }),
    paused: z.boolean('must be true or false').optional().openapi({ description: 'Not given: as it was, or false.' }),
  },
  'must be an object with cron, queue or topic, and a message',
)
  .superRefine(({ queue, topic, routing_key }, context) => {
    const issue = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message })
    if (queue === undefined && topic === undefined) issue('queue', 'exactly one of queue and topic is needed')
    if (queue !== undefined && topic !== undefined) issue('topic', 'excludes queue: give one of them')
    if (routing_key !== undefined && topic === undefined) issue('routing_key', 'only goes with topic')
  })
  .openapi('NewSchedule', {
    description:
      'Exactly one of queue and topic, and exactly one of body and body_base64. Replaces the schedule whole: what is not given has its default, except paused.',
  })

export type GivenSchedule = Omit<ScheduleSettings, 'paused'> & { paused: boolean | null }

/** Throws what a JSON body may throw, and body_too_large for the message. */
export async function readSchedule(exchange: Exchange, maxBodyBytes: number): Promise<GivenSchedule> {
  const { text, value } = await readJsonText(exchange, jsonLimit)
  const given = check(scheduleIn, value)
  const rawBody = () => {
    const body = objectMembers(text, 0).get('body')
    return text.slice(body?.start, body?.end)
  }
  const item = messageFrom(given, value as Record<string, unknown>, '', rawBody, { maxBodyBytes, trace: null })
  if (!('message' in item)) {
    const refused = refuse(item.errors)
    throw item.code === 'invalid_value' ? refused : new BrokerError(item.code, refused.message, { errors: item.errors })
  }
  const { queue, topic, routing_key: routingKey = '' } = given
  return {
    cron: given.cron,
    timezone: given.timezone ?? 'UTC',
    target: topic === undefined ? { queue: queue ?? '' } : { topic, routingKey },
    message: item.message,
    misfire: given.misfire ?? 'skip',
    paused: given.paused ?? null,
  }
}

export const scheduleOut = z
  .strictObject({
    name: z.string(),
    cron: z.string(),
    timezone: z.string(),
    queue: z.string().optional(),
    topic: z.string().optional(),
    routing_key: z.string().optional().openapi({ description: 'With topic.' }),
    body: z.string().optional().openapi({ description: 'The exact text, when the bytes are valid UTF-8.' }),
    body_base64: z.string().optional().openapi({ description: 'Instead of body, when they are not.' }),
    content_type: z.string(),
    headers: z.record(z.string(), z.string()),
    key: z.string().nullable(),
    priority: z.int(),
    delay: durationOut.nullable().openapi({ description: 'null: as the queue says.' }),
    ttl: durationOut.nullable().openapi({ description: 'null: as the queue says.' }),
    misfire,
    paused: z.boolean(),
    next_fires: z.array(timeOut).openapi({ description: 'The next five; none while it is paused.' }),
    last_fire: z
      .strictObject({
        at: timeOut.openapi({ description: 'When it was to fire, or was run.' }),
        message_id: z.string().nullable(),
        error: z.string().nullable(),
      })
      .nullable()
      .openapi({ description: 'Has a message_id or an error.' }),
    created_at: timeOut,
    updated_at: timeOut,
  })
  .openapi('Schedule')

export function scheduleJson(schedule: ScheduleWithFires): z.input<typeof scheduleOut> {
  const { target, message, lastFire } = schedule
  const durationOrNull = (ms: number | null) => (ms === null ? null : formatDuration(ms))
  return {
    name: schedule.name,
    cron: schedule.cron,
    timezone: schedule.timezone,
    ...('topic' in target ? { topic: target.topic, routing_key: target.routingKey } : { queue: target.queue }),
    ...bodyJson(message.body),
    content_type: message.contentType,
    headers: message.headers ?? {},
    key: message.key,
    priority: message.priority,
    delay: durationOrNull(message.delayMs),
    ttl: durationOrNull(message.ttlMs),
    misfire: schedule.misfire,
    paused: schedule.paused,
    next_fires: schedule.nextFires.map((at) => at.toISOString()),
    last_fire: lastFire && {
      at: lastFire.at.toISOString(),
      message_id: lastFire.messageId,
      error: lastFire.error,
    },
    created_at: schedule.createdAt.toISOString(),
    updated_at: schedule.updatedAt.toISOString(),
  }
}
