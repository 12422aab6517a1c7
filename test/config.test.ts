/** Settings: defaults, every mistake at once, nothing secret printed. */
import { expect, test } from 'vitest'
import { ConfigError, describeSettings, loadConfig } from '../src/config.ts'

const facts = { tty: false }

function problemsOf(environment: Record<string, string>): readonly string[] {
  try {
    loadConfig(environment, facts)
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
  }
  return []
}

test('nothing set is local mode, open, on loopback', () => {
  expect(loadConfig({}, facts)).toMatchObject({
    localMode: true,
    open: true,
    host: '127.0.0.1',
    port: 7070,
    maxWaitMs: 55_000,
    drainMs: 25_000,
    logFormat: 'json',
  })
})

test('private webhooks are allowed by themselves in local mode only', () => {
  const key = { POSTERN_ROOT_KEY: 'x'.repeat(16) }
  expect(loadConfig({}, facts).allowPrivateWebhooks).toBe(true)
  expect(loadConfig({ ...key, HOST: '0.0.0.0' }, facts).allowPrivateWebhooks).toBe(false)
  expect(loadConfig({ DATABASE_URL: 'postgres://h/d' }, facts).allowPrivateWebhooks).toBe(false)
  const networks = { ALLOW_PRIVATE_WEBHOOKS: '10.0.0.0/8,fd00::/8' }
  expect(loadConfig(networks, facts).allowPrivateWebhooks).toEqual(['10.0.0.0/8', 'fd00::/8'])
  expect(problemsOf({ ALLOW_PRIVATE_WEBHOOKS: 'perhaps' })).toHaveLength(1)
})

test('a root key closes the door, and lets others in', () => {
  const environment = { POSTERN_ROOT_KEY: 'x'.repeat(16), HOST: '0.0.0.0', DATABASE_URL: 'postgres://h/d' }
  expect(loadConfig(environment, facts)).toMatchObject({ open: false, localMode: false })
})

test.each(['0.0.0.0', '192.168.1.1', '::', 'example.com', '127.example.com'])(
  '%s without a root key is refused',
  (host) => {
    expect(problemsOf({ HOST: host })).toHaveLength(1)
  },
)

test.each(['127.0.0.1', '127.0.0.2', '::1', 'localhost'])('%s needs none', (host) => {
  expect(problemsOf({ HOST: host })).toEqual([])
})

test('every mistake is told at once, each by its name', () => {
  const wrong = {
    PORT: '70000',
    DATABASE_POOL: '1',
    MAX_WAIT: 'soon',
    LOG_LEVEL: 'loud',
    LOG_FORMAT: 'xml',
    ROLES: 'api,cook',
    MAX_BODY_BYTES: '-1',
    RATE_LIMIT: 'fast',
    RATE_LIMIT_PER_KEY: '10/d',
    RATE_LIMIT_REFUSED: '0/s',
    MAX_CONNECTIONS: '0',
    MAX_ANSWERS_IN_FLIGHT: '1',
    MAX_BODIES_IN_FLIGHT: '1',
    MAX_WAITING: '0',
    POSTERN_ROOT_KEY: 'short',
  }
  const problems = problemsOf(wrong)
  for (const name of Object.keys(wrong))
    expect(
      problems.some((problem) => problem.startsWith(`${name}:`)),
      name,
    ).toBe(true)
})

test('request rates are none, or a number and a unit', () => {
  expect(loadConfig({ RATE_LIMIT: 'none' }, facts)).toMatchObject({ rateLimit: null, rateLimitPerKey: null })
  expect(loadConfig({}, facts)).toMatchObject({ rateLimitRefused: { count: 50, perMs: 1000 }, maxConnections: 60_000 })
  expect(loadConfig({ RATE_LIMIT_REFUSED: 'none' }, facts)).toMatchObject({ rateLimitRefused: null })
  const given = { RATE_LIMIT: '5000/s', RATE_LIMIT_PER_KEY: '600/m' }
  const rates = { rateLimit: { count: 5000, perMs: 1000 }, rateLimitPerKey: { count: 600, perMs: 60_000 } }
  expect(loadConfig(given, facts)).toMatchObject(rates)
})

test('secrets are not printed', () => {
  const environment = { POSTERN_ROOT_KEY: 'the-root-key-itself', DATABASE_URL: 'postgres://u:password@h/d' }
  const text = JSON.stringify(describeSettings(environment))
  expect(text).not.toContain('the-root-key-itself')
  expect(text).not.toContain('password@')
})
