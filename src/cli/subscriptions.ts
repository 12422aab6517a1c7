/** `postern subscriptions`: where webhooks go, how their endpoints have been doing, and what to do about it. */
import type { Command } from 'commander'
import { addPair } from './body.ts'
import { CliError, everyPage, jsonBody, subscriptionPath } from './client.ts'
import type { Context } from './context.ts'
import { fieldTable, table } from './output.ts'
import { interestFrom } from './topics.ts'

type Subscription = {
  id: string
  name: string | null
  queue?: string
  topic?: string
  pattern?: string
  url: string
  status: 'enabled' | 'disabled'
  disabled_reason: string | null
  circuit: string
  counts: { ready: number; delayed: number; leased: number; dead: number }
}
type Attempt = {
  message_id: string
  attempt: number
  at: string
  outcome: 'succeeded' | 'failed'
  status: number | null
  duration_ms: number
  error: string | null
  next_attempt_at: string | null
}

export function subscriptionsCommand(program: Command, context: Context): void {
  const subscriptions = program.command('subscriptions').description('list webhook subscriptions, or change one')
  lookCommands(subscriptions, context)
  changeCommands(subscriptions, context)
  switchCommands(subscriptions, context)
  secretCommands(subscriptions, context)
  deliveryCommands(subscriptions, context)
}

function lookCommands(subscriptions: Command, context: Context): void {
  subscriptions
    .command('list', { isDefault: true })
    .description('every subscription that the key may read')
    .option('--queue <queue>', 'only those on it')
    .option('--topic <topic>', 'only those on it')
    .action(async ({ queue, topic }: { queue?: string; topic?: string }, command: Command) => {
      const { client, out } = context(command)
      const found = await everyPage<Subscription>(client, '/v1/subscriptions', { queue, topic })
      const rows = found.map((each) => [
        ...[each.id, each.name, each.topic === undefined ? `queue ${each.queue}` : `topic ${each.topic}`, each.url],
        each.disabled_reason === null ? each.status : `${each.status} (${each.disabled_reason})`,
        ...[each.circuit, each.counts.ready, each.counts.delayed, each.counts.leased, each.counts.dead],
      ])
      const heads = ['ID', 'NAME', 'OF', 'ENDPOINT', 'STATUS', 'CIRCUIT', 'READY', 'DELAYED', 'LEASED', 'DEAD']
      await out.data(found, () => table(heads, rows))
    })
  subscriptions
    .command('show')
    .description('its settings, and how its endpoint has been doing')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await client.json<Record<string, unknown>>('GET', subscriptionPath(id))
      await out.data(found, () => fieldTable(found))
    })
}

type Settings = {
  queue?: string
  topic?: string
  endpoint?: string
  pattern?: string
  filter?: string
  name?: string
  format?: string
  header?: Record<string, string>
  timeout?: string
  concurrency?: string
  rate?: string
  retrySchedule?: string
  maxAttempts?: string
}

/** `--url` is the gateway's, whichever the verb. */
const withSettings = (command: Command): Command =>
  command
    .option('--pattern <pattern>', 'of a topic, over the routing key: * one word, # any number (#)')
    .option('--filter <json>', 'of a topic, over headers and body')
    .option('--name <name>')
    .option('--format <format>', 'raw, cloudevents or envelope (raw)')
    .option('--header <name=value>', 'sent with every delivery; may be repeated', addPair)
    .option('--timeout <duration>', 'for a whole attempt (30s)')
    .option('--concurrency <count>', 'deliveries under way at once (10)')
    .option('--rate <rate>', 'such as 10/s, 600/m (unlimited)')
    .option('--retry-schedule <durations>', 'the waits after each failure, such as 5s,5m,2h')
    .option('--max-attempts <count>', 'then it is a dead letter (one more than the schedule has waits)')

function changeCommands(subscriptions: Command, context: Context): void {
  const create = subscriptions
    .command('create')
    .description('deliver the messages of a queue or a topic to an endpoint')
    .requiredOption('--endpoint <url>', 'where to deliver')
    .option('--queue <queue>', 'deliver its messages, competing with its other consumers')
    .option('--topic <topic>', 'deliver copies of its messages, from a backlog of its own')
  withSettings(create).action(async (options: Settings, command: Command) => {
    const { client, out } = context(command)
    if ((options.queue === undefined) === (options.topic === undefined))
      throw new CliError(2, 'Give --queue or --topic, and not both.')
    const created = await client.json<{ id: string; secret: string }>(
      'POST',
      '/v1/subscriptions',
      jsonBody(settingsFrom(options)),
    )
    await out.data(created, () => `${created.id}\n${created.secret}`)
    out.note(`The secret signs every delivery; postern subscriptions secret ${created.id} shows it again.`)
  })
  const update = subscriptions
    .command('update')
    .description('change the settings given; null takes an optional one back')
    .argument('<id>')
    .option('--endpoint <url>', 'where to deliver')
  withSettings(update).action(async (id: string, options: Settings, command: Command) => {
    const { client, out } = context(command)
    const settings = settingsFrom(options)
    if (Object.keys(settings).length === 0) throw new CliError(2, 'Give the settings to change, such as --timeout 10s.')
    const updated = await client.json<Subscription>('PATCH', subscriptionPath(id), jsonBody(settings))
    await out.data(updated, () => `${id}: settings as given`)
  })
  subscriptions
    .command('delete')
    .description('delete a subscription; on a topic with its backlog')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', subscriptionPath(id))
      await out.data({ deleted: id }, () => `${id}: deleted`)
    })
}

/** Only what was given, as the API takes it. */
function settingsFrom(options: Settings): Record<string, unknown> {
  const all = {
    queue: options.queue,
    topic: options.topic,
    ...interestFrom(options),
    url: options.endpoint,
    name: orNull(options.name, (text) => text),
    format: options.format,
    headers: options.header,
    timeout: options.timeout,
    concurrency: orNull(options.concurrency, (text) => numberFrom('--concurrency', text)),
    rate: orNull(options.rate, (text) => text),
    retry: orNull(options.retrySchedule, (text) => ({ schedule: text.split(',').map((wait) => wait.trim()) })),
    max_attempts: orNull(options.maxAttempts, (text) => numberFrom('--max-attempts', text)),
  }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
}

const orNull = <T>(text: string | undefined, read: (text: string) => T): T | null | undefined =>
  text === undefined ? undefined : text === 'null' ? null : read(text)

function numberFrom(option: string, text: string): number {
  // JSON has no NaN: it would become null, which means something.
  if (!/^\d+$/.test(text)) throw new CliError(2, `${option} ${text}: this is no whole number`)
  return Number(text)
}

function switchCommands(subscriptions: Command, context: Context): void {
  const verbs = {
    enable: 'deliver again, and forget past failures',
    disable: 'deliver nothing until enabled; what is to be delivered is kept',
  }
  for (const [verb, about] of Object.entries(verbs))
    subscriptions
      .command(verb)
      .description(about)
      .argument('<id>')
      .action(async (id: string, _options: unknown, command: Command) => {
        const { client, out } = context(command)
        const answer = await client.json<Subscription>('POST', subscriptionPath(id, `/${verb}`))
        await out.data(answer, () => `${id}: ${answer.status}`)
      })
}

type Rotated = { secret: string; previous: { expires_at: string }[] }
type Secrets = { secret: string; previous: { secret: string; expires_at: string }[] }

function secretCommands(subscriptions: Command, context: Context): void {
  subscriptions
    .command('secret')
    .description('the secret that signs; on stderr those that were replaced and still sign too')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out, json } = context(command)
      const found = await client.json<Secrets>('GET', subscriptionPath(id, '/secret'))
      await out.data(found, () => found.secret)
      if (!json) for (const each of found.previous) out.note(`${each.secret} signs too, until ${each.expires_at}`)
    })
  subscriptions
    .command('rotate-secret')
    .description('sign with a new secret, and for a while with the present one too')
    .argument('<id>')
    .option('--grace <duration>', 'how long the present one goes on signing (24h)')
    .action(async (id: string, { grace }: { grace?: string }, command: Command) => {
      const { client, out } = context(command)
      const path = subscriptionPath(id, '/rotate_secret')
      const rotated = await client.json<Rotated>('POST', path, jsonBody({ grace }))
      await out.data(rotated, () => rotated.secret)
      const last = rotated.previous.map((each) => each.expires_at).sort()
      if (last.length > 0) out.note(`The one before it signs too, until ${last.at(-1)}.`)
    })
}

type ReplayOptions = { state?: string; from?: string; to?: string }
type AttemptsOptions = { status?: string; limit: string }

function deliveryCommands(subscriptions: Command, context: Context): void {
  subscriptions
    .command('test')
    .description('send one made-up message now; fails if the endpoint does')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const attempt = await client.json<Attempt>('POST', subscriptionPath(id, '/test'))
      const { outcome, status, duration_ms: durationMs, error } = attempt
      const what = outcome === 'failed' ? error : status
      await out.data(attempt, () => `${outcome} in ${Math.round(durationMs)} ms: ${what}`)
      if (outcome === 'failed') process.exitCode = 1
    })
  subscriptions
    .command('replay')
    .description('deliver dead letters, or what the topic has kept, once more')
    .argument('<id>')
    .option('--state <state>', 'dead or past (past with --from, otherwise dead)')
    .option('--from <time>', 'RFC 3339')
    .option('--to <time>', 'RFC 3339')
    .action(async (id: string, { state, from, to }: ReplayOptions, command: Command) => {
      const { client, out } = context(command)
      const path = subscriptionPath(id, '/replay')
      const answer = await client.json<{ replayed: number }>('POST', path, jsonBody({ state, from, to }))
      await out.data(answer, () => `${id}: ${answer.replayed} messages are delivered once more`)
    })
  subscriptions
    .command('attempts')
    .description('the calls to the endpoint, the newest first')
    .argument('<id>')
    .option('--status <status>', 'only failed, or succeeded')
    .option('--limit <count>', 'at most so many', '20')
    .action(async (id: string, query: AttemptsOptions, command: Command) => {
      const { client, out } = context(command)
      const { data } = await client.json<{ data: Attempt[] }>('GET', subscriptionPath(id, '/attempts'), { query })
      const rows = data.map((each) => [
        ...[each.at, each.message_id, each.attempt, each.outcome, each.status, Math.round(each.duration_ms)],
        ...[each.next_attempt_at, each.error],
      ])
      await out.data(data, () => table(['AT', 'MESSAGE', 'ATTEMPT', 'OUTCOME', 'STATUS', 'MS', 'NEXT', 'ERROR'], rows))
    })
}
