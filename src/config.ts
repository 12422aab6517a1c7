/** Every setting, its default and a sentence about it; the only reader of the environment. */
import { isIP } from 'node:net'
import { z } from 'zod'
import { formatDuration, parseDuration, parseRate, type Rate } from './model/index.ts'
import { parseAllowPrivate } from './push/index.ts'

const text = z.string().min(1)
const flag = (fallback: boolean) =>
  z
    .enum(['true', 'false', '1', '0', 'yes', 'no'])
    .transform((value) => ['true', '1', 'yes'].includes(value))
    .default(fallback)
const whole = (min: number, max: number, fallback: number) =>
  z.coerce.number().int().min(min).max(max).default(fallback)
const duration = (maxMs: number, fallbackMs: number) =>
  z
    .string()
    .transform((value, context) => {
      const ms = parseDuration(value)
      if (ms !== null && ms <= maxMs) return ms
      context.addIssue({ code: 'custom', message: `not a duration up to ${formatDuration(maxMs)}, such as 30s` })
      return z.NEVER
    })
    .default(fallbackMs)
const rate = (fallback: Rate | null) =>
  z
    .string()
    .transform((value, context): Rate | null => {
      const parsed = value === 'none' ? null : parseRate(value)
      if (parsed !== null || value === 'none') return parsed
      context.addIssue({ code: 'custom', message: 'neither none nor a number and a unit, such as 5000/s' })
      return z.NEVER
    })
    .nullable()
    .default(fallback)
const roles = z
  .string()
  .transform((value) => value.split(',').map((role) => role.trim()))
  .pipe(z.array(z.enum(['api', 'push', 'upkeep'])).min(1))
  .default(['api', 'push', 'upkeep'])

const addresses = z
  .string()
  .transform((value, context) => {
    const parsed = parseAllowPrivate(value)
    if (parsed !== null) return parsed
    context.addIssue({ code: 'custom', message: 'neither true, false nor networks such as 10.0.0.0/8,fd00::/8' })
    return z.NEVER
  })
  .nullable()
  .default(null)

type Setting = { name: string; schema: z.ZodType; about: string; default: string; secret?: true }

/** In the order in which they are printed. */
export const settings = [
  {
    name: 'DATABASE_URL',
    schema: text.nullable().default(null),
    default: 'none',
    secret: true,
    about: 'Postgres 14 or newer. Without it Postern starts a Postgres of its own (local mode).',
  },
  {
    name: 'DATABASE_LISTEN_URL',
    schema: text.nullable().default(null),
    default: 'DATABASE_URL',
    secret: true,
    about: 'A direct connection for LISTEN, when DATABASE_URL leads through PgBouncer.',
  },
  {
    name: 'DATABASE_PREPARE',
    schema: flag(true),
    default: 'true',
    about: 'false behind PgBouncer in transaction mode: no prepared statements, no session settings.',
  },
  {
    name: 'DATABASE_POOL',
    schema: whole(2, 500, 10),
    default: '10',
    about: 'Connections to Postgres, besides the one that listens.',
  },
  {
    name: 'DATA_DIR',
    schema: text.default('.postern'),
    default: '.postern',
    about: 'Where local mode keeps its database.',
  },
  {
    name: 'HOST',
    schema: text.default('127.0.0.1'),
    default: '127.0.0.1',
    about: 'The address to listen on. Any but loopback needs POSTERN_ROOT_KEY.',
  },
  {
    name: 'PORT',
    schema: whole(0, 65_535, 7070),
    default: '7070',
    about: 'The port to listen on; 0 takes a free one.',
  },
  {
    name: 'POSTERN_ROOT_KEY',
    schema: z.string().min(16).nullable().default(null),
    default: 'none',
    secret: true,
    about: 'The key that may do everything, at least 16 characters. When set, every request needs a key.',
  },
  {
    name: 'MAX_BODY_BYTES',
    schema: whole(1, 64 * 1024 * 1024, 1024 * 1024),
    default: '1048576',
    about: 'The largest message body.',
  },
  { name: 'MAX_WAIT', schema: duration(300_000, 55_000), default: '55s', about: 'The longest long poll.' },
  {
    name: 'RATE_LIMIT',
    schema: rate(null),
    default: 'none',
    about: 'Requests that this gateway takes, such as 5000/s; the probes are not counted.',
  },
  {
    name: 'RATE_LIMIT_PER_KEY',
    schema: rate(null),
    default: 'none',
    about:
      'Requests that this gateway takes from each API key which has no rate_limit of its own; the root key has none.',
  },
  {
    name: 'RATE_LIMIT_REFUSED',
    schema: rate({ count: 50, perMs: 1000 }),
    default: '50/s',
    about:
      'Requests without a valid key that are answered to each address; beyond it a key that was not valid lately is not even looked up.',
  },
  {
    name: 'MAX_CONNECTIONS',
    schema: whole(1, 1_000_000, 60_000),
    default: '60000',
    about: 'Connections that are open at the same time; more are answered with 503 and closed.',
  },
  {
    name: 'MAX_BODIES_IN_FLIGHT',
    schema: whole(1024 * 1024, 64 * 1024 ** 3, 256 * 1024 * 1024),
    default: '268435456',
    about: 'Bytes of request bodies that are being read or wait to be stored; more are refused with 503.',
  },
  {
    name: 'MAX_ANSWERS_IN_FLIGHT',
    schema: whole(1024 * 1024, 64 * 1024 ** 3, 256 * 1024 * 1024),
    default: '268435456',
    about:
      'Bytes of answers that their clients have not taken yet; beyond it receives and browsing are refused with 503.',
  },
  {
    name: 'MAX_WAITING',
    schema: whole(1, 1_000_000, 50_000),
    default: '50000',
    about: 'Receives that wait at the same time; more are refused with 503.',
  },
  {
    name: 'LOG_LEVEL',
    schema: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
    default: 'info',
    about: 'The least severe lines that are logged.',
  },
  {
    name: 'LOG_FORMAT',
    schema: z.enum(['pretty', 'json', 'ecs']).nullable().default(null),
    default: 'pretty on a terminal, else json',
    about: 'ecs: Elastic Common Schema.',
  },
  {
    name: 'OTEL_EXPORTER_OTLP_ENDPOINT',
    schema: z
      .url({ protocol: /^https?$/, error: 'not an http or https URL, such as http://collector:4318' })
      .nullable()
      .default(null),
    default: 'none',
    about:
      'Where traces go, by OTLP over HTTP, such as http://collector:4318; without it there are none. The other OTEL_ variables of exporter and sampler hold too.',
  },
  {
    name: 'METRICS_PUBLIC',
    schema: flag(false),
    default: 'false',
    about: 'true: /metrics needs no key. For networks in which only the scraper reaches it; it names queues.',
  },
  {
    name: 'METRICS_LABELS_MAX',
    schema: whole(0, 10_000, 200),
    default: '200',
    about: 'Queues, and subscriptions, that have metrics of their own; the rest are summed up as other.',
  },
  {
    name: 'ALLOW_PRIVATE_WEBHOOKS',
    schema: addresses,
    default: 'local mode only',
    about: 'Whether webhooks may go to private addresses: true, false, or networks such as 10.0.0.0/8,fd00::/8.',
  },
  {
    name: 'ROLES',
    schema: roles,
    default: 'api,push,upkeep',
    about:
      'What this process does: serve the API, deliver to webhooks, upkeep. One with upkeep must run somewhere, or nothing expires, becomes due, fires or is redriven.',
  },
  {
    name: 'DRAIN',
    schema: duration(600_000, 25_000),
    default: '25s',
    about: 'How long a stopping gateway may finish what is under way.',
  },
] as const satisfies readonly Setting[]

export type Config = {
  databaseUrl: string | null
  databaseListenUrl: string | null
  databasePrepare: boolean
  databasePool: number
  dataDir: string
  host: string
  port: number
  rootKey: string | null
  maxBodyBytes: number
  maxWaitMs: number
  /** Requests of all, and of each API key. */
  rateLimit: Rate | null
  rateLimitPerKey: Rate | null
  /** Requests without a valid key, from each address. */
  rateLimitRefused: Rate | null
  maxConnections: number
  maxBodiesInFlightBytes: number
  maxAnswersInFlightBytes: number
  maxWaiting: number
  logLevel: string
  logFormat: 'pretty' | 'json' | 'ecs'
  /** Where traces go; null: there are none. */
  traceEndpoint: string | null
  metricsPublic: boolean
  metricsLabelsMost: number
  roles: readonly string[]
  /** Which addresses webhooks may reach besides public ones: all, none, or these networks. */
  allowPrivateWebhooks: boolean | readonly string[]
  drainMs: number
  /** Brings its own Postgres, and can be reached from this machine only. */
  localMode: boolean
  /** No key is needed: on loopback, without a root key. */
  open: boolean
}

/** All that is wrong, a sentence each. */
export class ConfigError extends Error {
  readonly problems: readonly string[]
  constructor(problems: readonly string[]) {
    super(problems.join('\n'))
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/** An empty value counts as none. Throws ConfigError with every problem at once. */
export function loadConfig(environment: Record<string, string | undefined>, facts: { tty: boolean }): Config {
  const problems: string[] = []
  const values = new Map<string, unknown>()
  for (const { name, schema } of settings as readonly Setting[]) {
    const given = environment[name]
    const parsed = schema.safeParse(given === '' ? undefined : given)
    if (parsed.success) values.set(name, parsed.data)
    else problems.push(`${name}: ${parsed.error.issues.map((issue) => issue.message).join('; ')}`)
  }
  const read = <T>(name: (typeof settings)[number]['name']): T => values.get(name) as T
  const local = values.get('DATABASE_URL') === null && isLoopback(String(values.get('HOST')))
  const config: Config = {
    databaseUrl: read('DATABASE_URL'),
    databaseListenUrl: read('DATABASE_LISTEN_URL'),
    databasePrepare: read('DATABASE_PREPARE'),
    databasePool: read('DATABASE_POOL'),
    dataDir: read('DATA_DIR'),
    host: read('HOST'),
    port: read('PORT'),
    rootKey: read('POSTERN_ROOT_KEY'),
    maxBodyBytes: read('MAX_BODY_BYTES'),
    maxWaitMs: read('MAX_WAIT'),
    rateLimit: read('RATE_LIMIT'),
    rateLimitPerKey: read('RATE_LIMIT_PER_KEY'),
    rateLimitRefused: read('RATE_LIMIT_REFUSED'),
    maxConnections: read('MAX_CONNECTIONS'),
    maxBodiesInFlightBytes: read('MAX_BODIES_IN_FLIGHT'),
    maxAnswersInFlightBytes: read('MAX_ANSWERS_IN_FLIGHT'),
    maxWaiting: read('MAX_WAITING'),
    logLevel: read('LOG_LEVEL'),
    logFormat: read('LOG_FORMAT') ?? (facts.tty ? 'pretty' : 'json'),
    traceEndpoint: read('OTEL_EXPORTER_OTLP_ENDPOINT'),
    metricsPublic: read('METRICS_PUBLIC'),
    metricsLabelsMost: read('METRICS_LABELS_MAX'),
    roles: read('ROLES'),
    allowPrivateWebhooks: read('ALLOW_PRIVATE_WEBHOOKS') ?? local,
    drainMs: read('DRAIN'),
    localMode: local,
    open: read('POSTERN_ROOT_KEY') === null,
  }
  if (config.host !== undefined && !isLoopback(config.host) && !config.rootKey && !environment.POSTERN_ROOT_KEY) {
    problems.push(`HOST: ${config.host} can be reached by others: set POSTERN_ROOT_KEY, or listen on 127.0.0.1.`)
  }
  if (
    config.databaseUrl !== null &&
    config.databaseUrl !== undefined &&
    !/^postgres(ql)?:\/\//.test(config.databaseUrl)
  ) {
    problems.push('DATABASE_URL: must begin with postgres:// or postgresql://')
  }
  if (problems.length > 0) throw new ConfigError(problems)
  return config
}

/** Each setting as it stands, with secrets masked. */
export function describeSettings(
  environment: Record<string, string | undefined>,
): { name: string; value: string; default: string; about: string }[] {
  return (settings as readonly Setting[]).map(({ name, default: fallback, about, secret }) => {
    const given = environment[name]
    return { name, value: given ? (secret ? '(set)' : given) : fallback, default: fallback, about }
  })
}

/** The environment, for those few who must hand it on. */
export const processEnv = (): Record<string, string | undefined> => process.env

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || host === '[::1]' || (isIP(host) === 4 && host.startsWith('127.'))
