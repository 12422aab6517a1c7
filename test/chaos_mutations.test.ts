/** The resilience suite notices a broken store: gateways whose statements are altered on their way to Postgres. */
import { afterEach, expect, test, vi } from 'vitest'
import * as actors from '../chaos/actors.ts'
import { check } from '../chaos/checker.ts'
import { emptyHistory } from '../chaos/history.ts'
import { createRandom } from '../chaos/random.ts'
import { play } from '../chaos/run.ts'
import { type App, createApp } from '../src/app.ts'
import { loadConfig } from '../src/config.ts'
import type { Database } from '../src/store/index.ts'
import { eventually, testDatabase } from './support/postgres.ts'

/** `or`: what else it may come to, as chance will have it. */
type Mutation = { broken: string; or?: string; from: string; to: string; inStatement: RegExp }
const present = vi.hoisted(() => ({ mutations: [] as Mutation[], altered: 0 }))

vi.mock('../src/store/client.ts', async (original) => {
  const real = await original<typeof import('../src/store/client.ts')>()
  const altered = (text: string): string => {
    for (const { from, to, inStatement } of present.mutations) {
      if (!inStatement.test(text) || !text.includes(from)) continue
      present.altered++
      return text.replaceAll(from, to)
    }
    return text
  }
  const connect: typeof real.connect = (options): Database => {
    const db = real.connect(options)
    return { ...db, hot: (text, parameters) => db.hot(altered(text), parameters) }
  }
  return { ...real, connect }
})

afterEach(() => {
  present.mutations = []
  present.altered = 0
})

/** Three gateways in this process, without any fault; the storm lasts until the history breaks the rule, or has `deliveries`. */
async function playUntil(rule: string | null, deliveries: number): Promise<string[]> {
  const database = await testDatabase()
  const environment = { DATABASE_URL: database.url, PORT: '0', DATABASE_POOL: '4', ALLOW_PRIVATE_WEBHOOKS: 'true' }
  const log = { event: () => {}, line: () => {}, fatal: () => {} }
  const apps: App[] = [1, 2, 3].map(() => createApp(loadConfig(environment, { tty: false }), { log }))
  const urls = (await Promise.all(apps.map((app) => app.start()))).map(({ url }) => url)
  const history = emptyHistory(actors.queues)
  const agent = actors.createAgent()
  const world = { history, random: createRandom(1), urls, agent, tries: 4, calm: false }
  const seen = new AbortController()
  const storm = () =>
    eventually(() => {
      if (rule && check(history).some((violation) => violation.rule === rule)) seen.abort()
      return seen.signal.aborted || history.deliveries.length >= deliveries
    }, 60_000)
  try {
    await play(world, storm, { log: () => {}, signal: seen.signal }).catch((error: unknown) => {
      if (!seen.signal.aborted) throw error
    })
    return [...new Set(check(history).map((violation) => violation.rule))]
  } finally {
    await agent.destroy()
    await Promise.all(apps.map((app) => app.stop()))
    await database.drop()
  }
}

test('a healthy store passes', async () => {
  expect(await playUntil(null, 300)).toEqual([])
  expect(present.altered).toBe(0)
}, 120_000)

const mutations: Record<string, Mutation> = {
  'a lease that takes what is leased': {
    broken: 'no two live leases',
    inStatement: /^\/\* lease/,
    from: ' and m.lease_token = 0',
    to: '',
  },
  'an ack that does not ask whose message it is': {
    broken: 'a receipt is a fence',
    inStatement: /^\/\* survivors/,
    from: 'ordinality x(queue_id, id, ord)\nwhere exists',
    to: 'ordinality x(queue_id, id, ord)\nwhere false and exists',
  },
  'a promotion before its time': {
    broken: 'never early',
    inStatement: /^\/\* promote/,
    from: 'due_at <= now()',
    to: "due_at <= now() + interval '1 hour'",
  },
  'a send that does not let a key wait': {
    broken: 'order per key',
    // A gateway believes that whatever came before a message that need not wait is done.
    or: 'nothing acknowledged is lost',
    inStatement: /^\/\* send to keyed/,
    from: 'postern.open_keys(array_agg(coalesce(s.id, 0) order by p.ord), array_agg(p.key order by p.ord), array_agg(p.done order by p.ord))',
    to: 'array_fill(32, array[count(*)::int])',
  },
  'an end of a lease that forgets the message': {
    broken: 'nothing acknowledged is lost',
    inStatement: /^\/\* (release|expire)/,
    from: "when wait_ms > 0 then 'delayed' else 'ready' end as fate",
    to: "when wait_ms > 0 then 'delayed' else 'dropped' end as fate",
  },
  'a limit that is one too high': {
    broken: 'dead letters',
    inStatement: /^\/\* (release|expire)/,
    from: 'g.attempts >= q.max_attempts',
    to: 'g.attempts > q.max_attempts',
  },
}

test.each(Object.entries(mutations))(
  '%s is caught',
  async (_, mutation) => {
    present.mutations = [mutation]
    // What is lost, and what is dead, shows in the end only.
    const inTheEnd = ['nothing acknowledged is lost', 'dead letters'].includes(mutation.broken)
    const rules = await playUntil(inTheEnd ? null : mutation.broken, inTheEnd ? 300 : Number.POSITIVE_INFINITY)
    expect(present.altered).toBeGreaterThan(0)
    expect(rules.filter((rule) => rule === mutation.broken || rule === mutation.or)).not.toEqual([])
  },
  120_000,
)
