/** `postern send`: one message, or one for each line. */
import { isUtf8 } from 'node:buffer'
import { createReadStream } from 'node:fs'
import type { Command } from 'commander'
import { addPair, bytesFrom, guessedType } from './body.ts'
import { CliError, type Client, queuePath } from './client.ts'
import type { Context } from './context.ts'
import { type Output, progress } from './output.ts'

/** Well below what a gateway takes in one batch, 1000 messages and 10 MiB. */
const batchLines = 500
const batchBytes = 4 * 1024 * 1024

type SendOptions = {
  file?: string
  lines?: boolean
  delay?: string
  ttl?: string
  priority?: string
  messageKey?: string
  dedupId?: string
  contentType?: string
  header: Record<string, string>
}

export function sendCommand(program: Command, context: Context): void {
  program
    .command('send')
    .description('send a message: the argument, --file, or what comes in on stdin')
    .argument('<queue>')
    .argument('[body]')
    .option('-f, --file <path>', 'the body, or with --lines the lines, of a file')
    .option('-l, --lines', 'each line that is not empty is a message (NDJSON too)')
    .option('--delay <duration>', 'such as 30s')
    .option('--ttl <duration>')
    .option('--priority <0-9>', '9 is handed out first')
    .option('--message-key <key>', 'the key of the message')
    .option('--dedup-id <id>', 'sends the same id once within the dedup window of the queue')
    .option('--content-type <type>', 'otherwise it is guessed from the body')
    .option('--header <name=value>', 'a header of the message; may be repeated', addPair, {})
    .action(async (queue: string, body: string | undefined, options: SendOptions, command: Command) => {
      const { client, out } = context(command)
      if (body !== undefined && (options.file !== undefined || options.lines))
        throw new CliError(2, 'Give the body as an argument, or --file, or --lines: not two of them.')
      if (options.lines) return await sendLines(client, out, queue, options)
      await sendOne(client, out, queue, body === undefined ? await bytesFrom(options.file) : Buffer.from(body), options)
    })
}

async function sendOne(
  client: Client,
  out: Output,
  queue: string,
  body: Buffer,
  { delay, ttl, priority, messageKey, dedupId, contentType, header }: SendOptions,
): Promise<void> {
  const sent = await client.json<{ id: string; deduplicated?: boolean }>('POST', queuePath(queue, '/messages'), {
    query: { delay, ttl, priority, key: messageKey, dedup_id: dedupId },
    body,
    type: contentType ?? guessedType(body),
    headers: Object.fromEntries(Object.entries(header).map(([name, value]) => [`Postern-Header-${name}`, value])),
  })
  await out.data(sent, () => `${sent.id}${sent.deduplicated ? ' (already sent)' : ''}`)
}

type Result = { error?: { code: string; detail: string } }

async function sendLines(client: Client, out: Output, queue: string, options: SendOptions): Promise<void> {
  if (options.dedupId !== undefined)
    throw new CliError(2, '--dedup-id names one message: with --lines all but the first would be dropped.')
  const bar = progress()
  const more = lineOptions(options)
  let sent = 0
  let batch: Buffer[] = []
  let bytes = 0

  async function flush(): Promise<void> {
    const messages = batch.map((line) => ({
      ...(isUtf8(line) ? { body: line.toString() } : { body_base64: line.toString('base64') }),
      content_type: options.contentType ?? guessedType(line),
      ...more,
    }))
    batch = []
    bytes = 0
    const { results } = await client
      .json<{ results: Result[] }>('POST', queuePath(queue, '/messages/batch'), {
        body: JSON.stringify({ messages }),
        type: 'application/json',
      })
      .catch((error: unknown) => {
        if (error instanceof CliError) throw new CliError(error.exitCode, `${error.message} (${sent} sent before)`)
        throw error
      })
    const refused = results.flatMap(({ error }, at) => (error ? [{ at, error }] : []))
    const first = refused[0]
    const total = sent + results.length - refused.length
    if (first)
      throw new CliError(
        1,
        `Line ${sent + first.at + 1}: ${first.error.code}: ${first.error.detail} (${total} sent, ${refused.length} refused, the rest not tried)`,
      )
    sent = total
    bar.show(`${sent} sent`)
  }

  try {
    for await (const line of linesOf(options.file === undefined ? process.stdin : createReadStream(options.file))) {
      if (batch.length > 0 && bytes + line.length > batchBytes) await flush()
      batch.push(line)
      bytes += line.length
      if (batch.length === batchLines) await flush()
    }
    if (batch.length > 0) await flush()
  } finally {
    bar.end()
  }
  await out.data({ sent }, () => `${sent} sent`)
}

function lineOptions({ delay, ttl, priority, messageKey, header }: SendOptions): Record<string, unknown> {
  return {
    ...(delay === undefined ? {} : { delay }),
    ...(ttl === undefined ? {} : { ttl }),
    ...(priority === undefined ? {} : { priority: Number(priority) }),
    ...(messageKey === undefined ? {} : { key: messageKey }),
    ...(Object.keys(header).length === 0 ? {} : { headers: header }),
  }
}

/** Lines as bytes, without their ends; empty ones are left out. Not readline, which would turn bytes into text. */
async function* linesOf(input: AsyncIterable<string | Buffer>): AsyncGenerator<Buffer> {
  let rest: Buffer[] = []
  for await (const part of input) {
    const bytes = Buffer.from(part)
    let from = 0
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, from)) {
      const line = withoutReturn(Buffer.concat([...rest, bytes.subarray(from, end)]))
      rest = []
      from = end + 1
      if (line.length > 0) yield line
    }
    rest.push(bytes.subarray(from))
  }
  const last = withoutReturn(Buffer.concat(rest))
  if (last.length > 0) yield last
}

const withoutReturn = (line: Buffer): Buffer => (line.at(-1) === 13 ? line.subarray(0, -1) : line)
