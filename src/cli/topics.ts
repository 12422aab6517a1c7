/** `postern topics`: topics, their bindings, and publishing to them. */
import type { Command } from 'commander'
import { addPair, bytesFrom, guessedType } from './body.ts'
import { bindingPath, CliError, type Client, everyPage, jsonBody, topicPath } from './client.ts'
import type { Context } from './context.ts'
import { fieldTable, table } from './output.ts'

type Topic = {
  name: string
  retention: string
  dedup_window: string
  counts: { bindings: number; subscriptions: number }
}
type Binding = { name: string; queue: string; pattern: string; filter: unknown }

export function topicsCommand(program: Command, context: Context): void {
  const topics = program.command('topics').description('list topics, change one, bind queues, publish')
  lookCommands(topics, context)
  changeCommands(topics, context)
  bindCommands(topics, context)
  publishCommands(topics, context)
}

/** Only what was given, as the API takes it. */
export function interestFrom(options: { pattern?: string; filter?: string }): { pattern?: string; filter?: unknown } {
  return {
    ...(options.pattern === undefined ? {} : { pattern: options.pattern }),
    ...(options.filter === undefined ? {} : { filter: parsed('--filter', options.filter) }),
  }
}

export function parsed(option: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new CliError(2, `${option} ${text}: this is no JSON`)
  }
}

function lookCommands(topics: Command, context: Context): void {
  topics
    .command('list', { isDefault: true })
    .description('every topic that the key may read')
    .action(async (_options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await everyPage<Topic>(client, '/v1/topics')
      const rows = found.map(({ name, retention, dedup_window: dedupWindow, counts }) => [
        ...[name, retention, dedupWindow, counts.bindings, counts.subscriptions],
      ])
      await out.data(found, () => table(['TOPIC', 'RETENTION', 'DEDUP WINDOW', 'BINDINGS', 'SUBSCRIPTIONS'], rows))
    })
  topics
    .command('show')
    .description('the settings of a topic')
    .argument('<topic>')
    .action(async (topic: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await client.json<Record<string, unknown>>('GET', topicPath(topic))
      await out.data(found, () => fieldTable(found))
    })
}

function changeCommands(topics: Command, context: Context): void {
  topics
    .command('put')
    .alias('create')
    .description('create a topic, or change the settings given')
    .argument('<topic>')
    .argument('[settings...]', 'such as retention=1h dedup_window=5m')
    .action(async (topic: string, words: string[], _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const settings = words.reduce((pairs, word) => addPair(word, pairs), {})
      const answer = await client.call('PUT', topicPath(topic), jsonBody(settings))
      const put = (await answer.json()) as Topic
      await out.data(put, () => `${put.name}: ${answer.status === 201 ? 'created' : 'was there; settings as given'}`)
    })
  topics
    .command('delete')
    .description('delete a topic with its bindings and subscriptions')
    .argument('<topic>')
    .option('--force', 'also when subscriptions have messages left to deliver')
    .action(async (topic: string, { force }: { force?: boolean }, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', topicPath(topic), { query: { force: force ? 'true' : undefined } })
      await out.data({ deleted: topic }, () => `${topic}: deleted`)
    })
}

type BindOptions = { name?: string; pattern?: string; filter?: string }

function bindCommands(topics: Command, context: Context): void {
  topics
    .command('bind')
    .description('copy what matches into a queue, from the next publish on; replaces the binding of this name')
    .argument('<topic>')
    .argument('<queue>')
    .option('--name <name>', "of the binding (the queue's)")
    .option('--pattern <pattern>', 'over the routing key: * one word, # any number (#)')
    .option('--filter <json>', 'over headers and body, such as {"body":{"total":[{"numeric":[">",100]}]}}')
    .action(async (topic: string, queue: string, options: BindOptions, command: Command) => {
      const { client, out } = context(command)
      const path = bindingPath(topic, options.name ?? queue)
      const bound = await client.json<Binding>('PUT', path, jsonBody({ queue, ...interestFrom(options) }))
      await out.data(bound, () => `${topic}: ${bound.name} copies ${bound.pattern} into ${bound.queue}`)
    })
  topics
    .command('unbind')
    .description('delete a binding; the copies it has made stay')
    .argument('<topic>')
    .argument('<name>')
    .action(async (topic: string, name: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', bindingPath(topic, name))
      await out.data({ unbound: name }, () => `${topic}: ${name} is unbound`)
    })
  topics
    .command('bindings')
    .description('the bindings of a topic')
    .argument('<topic>')
    .action(async (topic: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await everyPage<Binding>(client, topicPath(topic, '/bindings'))
      const rows = found.map(({ name, queue, pattern, filter }) => [
        ...[name, queue, pattern, filter === null ? null : JSON.stringify(filter)],
      ])
      await out.data(found, () => table(['BINDING', 'QUEUE', 'PATTERN', 'FILTER'], rows))
    })
}

type Published = { id: string; matched: number } | { id: string; deduplicated: true }
type Matches = { matched: number; bindings: { name: string; queue: string }[]; subscriptions: string[] }

function publishCommands(topics: Command, context: Context): void {
  messageCommand(topics, 'publish', 'publish a message: the argument, --file, or what comes in on stdin').action(
    async (topic: string, body: string | undefined, options: MessageOptions, command: Command) => {
      const { client, out } = context(command)
      const published = await post<Published>(client, topicPath(topic, '/messages'), body, options)
      const what = 'matched' in published ? `${published.matched} matched` : 'already published'
      await out.data(published, () => `${published.id} (${what})`)
    },
  )
  messageCommand(topics, 'test', 'where a message would go; takes what publish takes, and stores nothing').action(
    async (topic: string, body: string | undefined, options: MessageOptions, command: Command) => {
      const { client, out } = context(command)
      const matches = await post<Matches>(client, topicPath(topic, '/test'), body, options)
      const rows = [
        ...matches.bindings.map(({ name, queue }) => ['binding', name, queue]),
        ...matches.subscriptions.map((id) => ['subscription', id, null]),
      ]
      await out.data(matches, () => (rows.length > 0 ? table(['MATCHES', 'NAME', 'QUEUE'], rows) : 'nothing matches'))
    },
  )
}

type MessageOptions = {
  routingKey?: string
  file?: string
  delay?: string
  ttl?: string
  priority?: string
  messageKey?: string
  dedupId?: string
  contentType?: string
  header: Record<string, string>
}

const messageCommand = (topics: Command, verb: string, about: string): Command =>
  topics
    .command(verb)
    .description(about)
    .argument('<topic>')
    .argument('[body]')
    .option('--routing-key <key>', 'words with dots between them, such as orders.eu.created')
    .option('-f, --file <path>', 'the body of a file')
    .option('--delay <duration>', 'such as 30s')
    .option('--ttl <duration>')
    .option('--priority <0-9>', '9 is handed out first')
    .option('--message-key <key>', 'the key of the message')
    .option('--dedup-id <id>', 'publishes the same id once within the dedup window of the topic')
    .option('--content-type <type>', 'otherwise it is guessed from the body')
    .option('--header <name=value>', 'a header of the message; may be repeated', addPair, {})

async function post<T>(
  client: Client,
  path: string,
  text: string | undefined,
  { routingKey, file, delay, ttl, priority, messageKey, dedupId, contentType, header }: MessageOptions,
): Promise<T> {
  if (text !== undefined && file !== undefined)
    throw new CliError(2, 'Give the body as an argument or with --file: not both.')
  const body = text === undefined ? await bytesFrom(file) : Buffer.from(text)
  return await client.json<T>('POST', path, {
    query: { routing_key: routingKey, delay, ttl, priority, key: messageKey, dedup_id: dedupId },
    body,
    type: contentType ?? guessedType(body),
    headers: Object.fromEntries(Object.entries(header).map(([name, value]) => [`Postern-Header-${name}`, value])),
  })
}
