/** `postern keys`: through the API, so that it works against any running gateway. */
import type { Command } from 'commander'
import { everyPage } from './client.ts'
import type { Context } from './context.ts'
import { table } from './output.ts'

type Key = {
  id: string
  name: string
  scopes: unknown
  expires_at: string | null
  rate_limit: string | null
  key?: string
}
type NewKey = { actions: string; queues: string; expiresAt?: string; rateLimit?: string }

export function keysCommand(program: Command, context: Context): void {
  const keys = program.command('keys').description('create, list and revoke API keys')
  keys
    .command('create')
    .description('print a new key; it is shown only once')
    .argument('<name>')
    .requiredOption('--actions <list>', 'of send,receive,read,manage')
    .option('--queues <patterns>', 'names or patterns such as orders.*, comma separated', '*')
    .option('--expires-at <time>', 'RFC 3339')
    .option('--rate-limit <rate>', 'requests on each gateway, such as 100/s')
    .action(async (name: string, options: NewKey, command: Command) => {
      const { client, out } = context(command)
      const scopes = [{ actions: options.actions.split(','), queues: options.queues.split(','), topics: [] }]
      const { expiresAt, rateLimit } = options
      const body = JSON.stringify({ name, scopes, expires_at: expiresAt, rate_limit: rateLimit })
      const made = await client.json<Key>('POST', '/v1/keys', { body, type: 'application/json' })
      await out.data(made, () => `${made.key}`)
      out.note(`This key is shown only now. Its id is ${made.id}.`)
    })
  keys
    .command('list')
    .description('every key, without its secret')
    .action(async (_options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await everyPage<Key>(client, '/v1/keys')
      await out.data(found, () =>
        table(
          ['ID', 'NAME', 'SCOPES', 'EXPIRES', 'RATE LIMIT'],
          found.map((key) => [key.id, key.name, JSON.stringify(key.scopes), key.expires_at, key.rate_limit]),
        ),
      )
    })
  keys
    .command('revoke')
    .description('refuse a key from now on')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', `/v1/keys/${encodeURIComponent(id)}`)
      await out.data({ revoked: id }, () => `${id} is revoked`)
    })
}
