/** One wide line per event. Nothing that could be a key, a receipt or a body is ever written. */
import { ecsFormat } from '@elastic/ecs-pino-format'
import { type Logger, pino } from 'pino'
import pretty from 'pino-pretty'
import type { Config } from './config.ts'

export type Log = {
  event(event: string, fields?: Record<string, unknown>): void
  line(fields: Record<string, unknown>): void
  fatal(event: string, fields?: Record<string, unknown>): void
}

const redact = {
  paths: ['authorization', 'key', 'secret', 'body', 'receipt', 'password', '*.authorization', '*.secret', '*.password'],
  censor: '(redacted)',
}

export function createLog({ logLevel, logFormat }: Pick<Config, 'logLevel' | 'logFormat'>): Log {
  const logger: Logger =
    logFormat === 'pretty'
      ? pino({ level: logLevel, redact }, pretty({ ignore: 'pid,hostname', singleLine: true }))
      : logFormat === 'ecs'
        ? pino({ ...ecsFormat(), level: logLevel, redact })
        : pino({ level: logLevel, redact, base: null, timestamp: pino.stdTimeFunctions.isoTime })
  const write = (
    level: 'info' | 'warn' | 'error' | 'fatal',
    event: string,
    { error, ...fields }: Record<string, unknown> = {},
  ): void => {
    logger[level]({ event, ...fields, ...(error instanceof Error ? { err: error } : {}) }, event)
  }
  return {
    event: (event, fields) => write(fields?.error ? 'warn' : 'info', event, fields),
    line: (fields) => {
      const status = typeof fields.status === 'number' ? fields.status : 0
      logger[status >= 500 ? 'error' : 'info'](fields, String(fields.event ?? 'request'))
    },
    fatal: (event, fields) => write('fatal', event, fields),
  }
}
