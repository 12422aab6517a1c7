/** `postern queues` and `postern stats`. */
import type { Command } from 'commander'
import { sleep } from '../base/index.ts'
import { CliError, type Client, everyPage, queuePath } from './client.ts'
import type { Context } from './context.ts'
import { table } from './output.ts'

type Queue = {
  name: string
  order: string
  paused: boolean
  counts: { ready: number; delayed: number; leased: number; dead: number }
}

/** `name=value`, where the value is JSON if it looks it: `max_attempts=5 lease=1m dead_letter_queue=failed`. */
function settingsFrom(words: readonly string[]): string {
  const entries = words.map((word): [string, unknown] => {
    const at = word.indexOf('=')
    if (at < 1) throw new CliError(2, `${word}: write settings as name=value, such as lease=1m`)
    return [word.slice(0, at), settingValue(word, word.slice(at + 1))]
  })
  return JSON.stringify(Object.fromEntries(entries))
}

function settingValue(word: string, value: string): unknown {
  if (!/^(-?\d+(\.\d+)?|true|false|null|\{.*\})$/s.test(value)) return value
  try {
    return JSON.parse(value)
  } catch {
    throw new CliError(2, `${word}: the value is no JSON`)
  }
}

export function queuesCommand(program: Command, context: Context): void {
  const queues = program.command('queues').description('list queues, or change one')
  queues
    .command('list', { isDefault: true })
    .description('every queue that the key may read, with its counts')
    .action(async (_options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await everyPage<Queue>(client, '/v1/queues')
      const rows = found.map(({ name, order, paused, counts }) => [
        ...[name, order, counts.ready, counts.delayed, counts.leased, counts.dead],
        paused ? 'paused' : '',
      ])
      await out.data(found, () => table(['QUEUE', 'ORDER', 'READY', 'DELAYED', 'LEASED', 'DEAD', ''], rows))
    })
  queues
    .command('show')
    .description('the settings of a queue')
    .argument('<queue>')
    .action(async (queue: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await client.json<Record<string, unknown>>('GET', queuePath(queue))
      const cell = (value: unknown) => (typeof value === 'object' && value !== null ? JSON.stringify(value) : value)
      const rows = Object.entries(found).map(([name, value]) => [name, cell(value)])
      await out.data(found, () => table(['SETTING', 'VALUE'], rows))
    })
  queues
    .command('put')
    .alias('create')
    .description('create a queue, or change the settings given')
    .argument('<queue>')
    .argument('[settings...]', 'such as lease=1m max_attempts=5')
    .action(async (queue: string, settings: string[], _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const body = settingsFrom(settings)
      const answer = await client.call('PUT', queuePath(queue), { body, type: 'application/json' })
      const put = (await answer.json()) as Queue
      await out.data(put, () => `${put.name}: ${answer.status === 201 ? 'created' : 'was there; settings as given'}`)
    })
  deleteCommand(queues, context)
  for (const verb of ['pause', 'resume'] as const) {
    queues
      .command(verb)
      .description(verb === 'pause' ? 'hand out nothing; sends are still taken' : 'hand out messages again')
      .argument('<queue>')
      .action(async (queue: string, _options: unknown, command: Command) => {
        const { client, out } = context(command)
        const answer = await client.json<Queue>('POST', queuePath(queue, `/${verb}`))
        await out.data(answer, () => `${queue}: ${verb}d`)
      })
  }
}

function deleteCommand(queues: Command, context: Context): void {
  queues
    .command('delete')
    .description('delete an empty queue')
    .argument('<queue>')
    .option('--force', 'with everything in it')
    .action(async (queue: string, { force }: { force?: boolean }, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', queuePath(queue), { query: { force: force ? 'true' : undefined } })
      await out.data({ deleted: queue }, () => `${queue}: deleted`)
    })
  queues
    .command('purge')
    .description('delete the messages of a queue')
    .argument('<queue>')
    .option('--state <states>', 'of ready,delayed,leased,dead (all but dead)')
    .action(async (queue: string, { state }: { state?: string }, command: Command) => {
      const { client, out } = context(command)
      const answer = await client.json<{ purged: number }>('POST', queuePath(queue, '/purge'), { query: { state } })
      await out.data(answer, () => `${queue}: ${answer.purged} messages deleted`)
    })
}

export function statsCommand(program: Command, context: Context): void {
  program
    .command('stats')
    .description('what is in the queues, and how fast it moves')
    .argument('[queue]')
    .option('--watch', 'every two seconds until interrupted')
    .action(async (queue: string | undefined, options: { watch?: boolean }, command: Command) => {
      const { client, out, json } = context(command)
      do {
        const found = await statsOf(client, queue)
        if (options.watch && !json && process.stdout.isTTY) process.stdout.write(clearScreen)
        await out.data(queue === undefined ? found : found[0], () => statsTable(found))
        if (options.watch) await sleep(watchMs)
      } while (options.watch)
    })
}

const watchMs = 2000
const clearScreen = '\x1b[H\x1b[2J'

type Stats = { queue: string; [figure: string]: string | number | null }

/** Of one queue, or of all, one after the other: a thousand queues must not be a thousand requests at once. */
async function statsOf(client: Client, queue: string | undefined): Promise<Stats[]> {
  const names = queue === undefined ? (await everyPage<Queue>(client, '/v1/queues')).map((each) => each.name) : [queue]
  const found: Stats[] = []
  for (const name of names)
    found.push({ queue: name, ...(await client.json<Record<string, number | null>>('GET', queuePath(name, '/stats'))) })
  return found
}

function statsTable(found: readonly Stats[]): string {
  const heads = [...new Set(['queue', ...found.flatMap(Object.keys)])]
  const cell = (value: unknown): unknown => (typeof value === 'number' ? Math.round(value * 10) / 10 : value)
  return table(
    heads.map((head) => head.toUpperCase()),
    found.map((each) => heads.map((head) => cell(each[head]))),
  )
}
