/** Patterns and filters as callers write and read them, in bindings and in subscriptions. */
import { z } from '@hono/zod-openapi'
import { type Filter, parseFilter, patternError, routingKeyError, topicLimits } from '../model/index.ts'

const maxLength = topicLimits.routingKeyLength

/** Refuses text that `wrong` finds something wrong with. */
export const textWithout = (wrong: (text: string) => string | null) =>
  z.string('must be a string').transform((text, context) => {
    const detail = wrong(text)
    if (detail === null) return text
    context.addIssue({ code: 'custom', message: detail })
    return z.NEVER
  })

export const patternIn = textWithout(patternError).openapi({
  type: 'string',
  maxLength,
  example: 'orders.*.created',
  description: 'Words of the routing key, between dots: `*` stands for one word, `#` for any number of them.',
})

export const routingKeyParam = textWithout(routingKeyError).openapi({
  type: 'string',
  maxLength,
  default: '',
  example: 'orders.eu.created',
})

const filterNotes =
  'Over `headers` and the JSON `body`, as EventBridge patterns: exact values, prefix, suffix, anything-but, numeric, exists, equals-ignore-case, $or. null: all.'

/** Errors point into the filter. */
export const filterIn = z
  .unknown()
  .transform((value, context): Filter | null => {
    if (value === null) return null
    const parsed = parseFilter(value)
    if ('filter' in parsed) return parsed.filter
    for (const { pointer, detail } of parsed.errors)
      context.addIssue({ code: 'custom', path: stepsOf(pointer), message: detail })
    return z.NEVER
  })
  .openapi({
    type: ['object', 'null'],
    additionalProperties: true,
    description: filterNotes,
    example: { body: { total: [{ numeric: ['>', 100] }] } },
  })

/** The steps of a JSON pointer (RFC 6901). */
export const stepsOf = (pointer: string): string[] =>
  pointer
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))

export const patternOut = z.string().openapi({ example: '#' })
export const filterOut = z.record(z.string(), z.unknown()).nullable()
