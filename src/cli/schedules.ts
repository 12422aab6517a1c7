/** `postern schedules`: messages that are sent by the clock. */
import { isUtf8 } from 'node:buffer'
import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { addPair, guessedType } from './body.ts'
import { CliError, everyPage, jsonBody, schedulePath } from './client.ts'
import type { Context } from './context.ts'
import { fieldTable, table } from './output.ts'

type Schedule = {
  name: string
  cron: string
  timezone: string
  queue?: string
  topic?: string
  paused: boolean
  next_fires: string[]
  last_fire: { at: string; message_id: string | null; error: string | null } | null
}

export function schedulesCommand(program: Command, context: Context): void {
  const schedules = program.command('schedules').description('list schedules, change one, pause, resume, run')
  lookCommands(schedules, context)
  putCommand(schedules, context)
  actionCommands(schedules, context)
}

function lookCommands(schedules: Command, context: Context): void {
  schedules
    .command('list', { isDefault: true })
    .description('every schedule that the key may read')
    .action(async (_options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await everyPage<Schedule>(client, '/v1/schedules')
      const rows = found.map(({ name, cron, timezone, queue, topic, paused, next_fires: next, last_fire: last }) => [
        ...[name, cron, timezone, queue ?? `topic ${topic}`, paused ? 'paused' : next[0]],
        ...[last?.at, last?.error ?? last?.message_id],
      ])
      await out.data(found, () => table(['SCHEDULE', 'CRON', 'ZONE', 'TO', 'NEXT', 'LAST', 'RESULT'], rows))
    })
  schedules
    .command('show')
    .description('all about one schedule, with its next fires')
    .argument('<name>')
    .action(async (name: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await client.json<Record<string, unknown>>('GET', schedulePath(name))
      await out.data(found, () => fieldTable(found))
    })
}

type PutOptions = {
  cron: string
  timezone?: string
  queue?: string
  topic?: string
  routingKey?: string
  misfire?: string
  paused?: boolean
  file?: string
  delay?: string
  ttl?: string
  priority?: string
  messageKey?: string
  contentType?: string
  header: Record<string, string>
}

function putCommand(schedules: Command, context: Context): void {
  schedules
    .command('put')
    .alias('create')
    .description('create a schedule, or replace the one of this name')
    .argument('<name>')
    .argument('[body]', 'the message; empty without it')
    .requiredOption('--cron <entry>', "'30 8 * * MON-FRI', with six fields seconds first, '@daily', '@every 30s'")
    .option('--timezone <zone>', 'such as Europe/Berlin (UTC)')
    .option('--queue <queue>', 'where it sends')
    .option('--topic <topic>', 'or publishes')
    .option('--routing-key <key>', 'with --topic')
    .option('--misfire <skip|once>', 'fires that no gateway was there for: forget them, or send one for all (skip)')
    .option('--paused', 'do not fire until resumed')
    .option('--no-paused', 'fire, also if it was paused')
    .option('-f, --file <path>', 'the body of a file')
    .option('--delay <duration>', 'such as 30s')
    .option('--ttl <duration>')
    .option('--priority <0-9>', '9 is handed out first')
    .option('--message-key <key>', 'the key of the message')
    .option('--content-type <type>', 'otherwise it is guessed from the body')
    .option('--header <name=value>', 'a header of the message; may be repeated', addPair, {})
    .action(async (name: string, body: string | undefined, options: PutOptions, command: Command) => {
      const { client, out } = context(command)
      const answer = await client.call('PUT', schedulePath(name), jsonBody(await scheduleFrom(body, options)))
      const put = (await answer.json()) as Schedule
      const what = answer.status === 201 ? 'created' : 'replaced'
      await out.data(put, () => `${put.name}: ${what}, ${put.paused ? 'paused' : `fires at ${put.next_fires[0]}`}`)
    })
}

/** As the API takes it; only what was given. */
async function scheduleFrom(text: string | undefined, options: PutOptions): Promise<Record<string, unknown>> {
  const { routingKey, messageKey, contentType, header, priority, file, ...same } = options
  if (text !== undefined && file !== undefined)
    throw new CliError(2, 'Give the body as an argument or with --file: not both.')
  if (priority !== undefined && !/^\d$/.test(priority)) throw new CliError(2, `--priority ${priority}: 0 to 9`)
  const body = file === undefined ? Buffer.from(text ?? '') : await readFile(file)
  return {
    ...same,
    routing_key: routingKey,
    key: messageKey,
    priority: priority === undefined ? undefined : Number(priority),
    content_type: contentType ?? guessedType(body),
    headers: header,
    ...(isUtf8(body) ? { body: body.toString() } : { body_base64: body.toString('base64') }),
  }
}

function actionCommands(schedules: Command, context: Context): void {
  const action = (verb: string, about: string, run: (name: string, command: Command) => Promise<void>) =>
    schedules
      .command(verb)
      .description(about)
      .argument('<name>')
      .action((name: string, _options: unknown, command: Command) => run(name, command))

  action('delete', 'delete a schedule; what it has sent stays', async (name, command) => {
    const { client, out } = context(command)
    await client.call('DELETE', schedulePath(name))
    await out.data({ deleted: name }, () => `${name}: deleted`)
  })
  action('pause', 'do not fire until resumed', async (name, command) => {
    const { client, out } = context(command)
    const paused = await client.json<Schedule>('POST', schedulePath(name, '/pause'))
    await out.data(paused, () => `${name}: paused`)
  })
  action('resume', 'fire again, from now on', async (name, command) => {
    const { client, out } = context(command)
    const resumed = await client.json<Schedule>('POST', schedulePath(name, '/resume'))
    await out.data(resumed, () => `${name}: fires at ${resumed.next_fires[0]}`)
  })
  action('run', 'send its message now', async (name, command) => {
    const { client, out } = context(command)
    const sent = await client.json<{ id: string }>('POST', schedulePath(name, '/run'))
    await out.data(sent, () => sent.id)
  })
}
