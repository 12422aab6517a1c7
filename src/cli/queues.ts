/** `postern queues`, `postern stats` and `postern keys`. */
import type { Command } from 'commander'
import { sleep } from '../base/index.ts'
import { CliError, type Client, queuePath } from './client.ts'
import { type Output, table } from './output.ts'

type Context = (command: Command) => { client: Client; out: Output; json: boolean }
type Queue = {
  name: string
  order: string
  paused: boolean
  counts: { ready: number; delayed: number; leased: number; dead: number }
}

async function everyPage<T>(client: Client, path: string): Promise<T[]> {
  const found: T[] = []
  let cursor: string | undefined
  do {
    const page: { data: T[]; next_cursor: string | null } = await client.json('GET', path, { query: { cursor } })
    found.push(...page.data)
    cursor = page.next_cursor ?? undefined
  } while (cursor)
  return found
}

/** `name=value`, where the value is JSON if it can be: `max_attempts=5 lease=1m dead_letter_queue=failed`. */
function settingsFrom(words: readonly string[]): string {
  const entries = words.map((word) => {
    const at = word.indexOf('=')
    if (at < 1) throw new CliError(2, `${word}: write settings as name=value, such as lease=1m`)
    const value = word.slice(at + 1)
    return [
      word.slice(0, at),
      /^(-?\d+(\.\d+)?|true|false|null|\{.*\})$/s.test(value) ? JSON.parse(value) : value,
    ] as const
  })
  return JSON.stringify(Object.fromEntries(entries))
}

export function queuesCommand(program: Command, context: Context): void {
  const queues = program.command('queues').description('list queues, or change one')
  queues.command('list', { isDefault: true }).action(async (_options: unknown, command: Command) => {
    const { client, out } = context(command)
    const found = await everyPage<Queue>(client, '/v1/queues')
    const rows = found.map(({ name, order, paused, counts }) => [
      name,
      order,
      counts.ready,
      counts.delayed,
      counts.leased,
      counts.dead,
      paused ? 'paused' : '',
    ])
    out.data(found, () => table(['QUEUE', 'ORDER', 'READY', 'DELAYED', 'LEASED', 'DEAD', ''], rows))
  })
  queues
    .command('put')
    .description('create a queue or change its settings')
    .argument('<queue>')
    .argument('[settings...]', 'such as lease=1m max_attempts=5')
    .action(async (queue: string, settings: string[], _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const put = await client.json<Queue>('PUT', queuePath(queue), {
        body: settingsFrom(settings),
        type: 'application/json',
      })
      out.data(put, () => `${put.name} is there`)
    })
  queues
    .command('delete')
    .argument('<queue>')
    .option('--force', 'with everything in it')
    .action(async (queue: string, options: { force?: boolean }, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', queuePath(queue), { query: { force: options.force ? 'true' : undefined } })
      out.data({ deleted: queue }, () => `${queue} is deleted`)
    })
  for (const verb of ['pause', 'resume', 'purge'] as const) {
    queues
      .command(verb)
      .argument('<queue>')
      .action(async (queue: string, _options: unknown, command: Command) => {
        const { client, out } = context(command)
        const answer = await client.json<{ purged?: number }>('POST', queuePath(queue, `/${verb}`))
        out.data(answer, () => (verb === 'purge' ? `${answer.purged} messages purged` : `${queue}: ${verb}d`))
      })
  }
}

export function statsCommand(program: Command, context: Context): void {
  program
    .command('stats')
    .description('what is in the queues, and how fast it moves')
    .argument('[queue]')
    .option('--watch', 'every two seconds until interrupted')
    .action(async (queue: string | undefined, options: { watch?: boolean }, command: Command) => {
      const { client, out } = context(command)
      do {
        const names = queue ? [queue] : (await everyPage<Queue>(client, '/v1/queues')).map((each) => each.name)
        const found = await Promise.all(
          names.map(async (name) => ({
            queue: name,
            ...(await client.json<Record<string, number | null>>('GET', queuePath(name, '/stats'))),
          })),
        )
        const heads = [...new Set(found.flatMap(Object.keys))]
        const cell = (value: unknown): unknown => (typeof value === 'number' ? Math.round(value * 10) / 10 : value)
        const rows = found.map((each) => heads.map((head) => cell((each as Record<string, unknown>)[head])))
        out.data(queue ? found[0] : found, () =>
          table(
            heads.map((head) => head.toUpperCase()),
            rows,
          ),
        )
        if (options.watch) await sleep(2000)
      } while (options.watch)
    })
}

type Key = { id: string; name: string; scopes: unknown; expires_at: string | null; key?: string }

export function keysCommand(program: Command, context: Context): void {
  const keys = program.command('keys').description('create, list and revoke API keys')
  keys
    .command('create')
    .argument('<name>')
    .requiredOption('--actions <list>', 'of send,receive,read,manage')
    .option('--queues <patterns>', 'names or patterns such as orders.*, comma separated', '*')
    .option('--expires-at <time>', 'RFC 3339')
    .action(
      async (name: string, options: { actions: string; queues: string; expiresAt?: string }, command: Command) => {
        const { client, out } = context(command)
        const scopes = [{ actions: options.actions.split(','), queues: options.queues.split(','), topics: [] }]
        const body = JSON.stringify({ name, scopes, ...(options.expiresAt ? { expires_at: options.expiresAt } : {}) })
        const made = await client.json<Key>('POST', '/v1/keys', { body, type: 'application/json' })
        out.data(made, () => `${made.key}\n\nThis key is shown only now. Its id is ${made.id}.`)
      },
    )
  keys.command('list').action(async (_options: unknown, command: Command) => {
    const { client, out } = context(command)
    const found = await everyPage<Key>(client, '/v1/keys')
    out.data(found, () =>
      table(
        ['ID', 'NAME', 'SCOPES', 'EXPIRES'],
        found.map((key) => [key.id, key.name, JSON.stringify(key.scopes), key.expires_at]),
      ),
    )
  })
  keys
    .command('revoke')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', `/v1/keys/${encodeURIComponent(id)}`)
      out.data({ revoked: id }, () => `${id} is revoked`)
    })
}
