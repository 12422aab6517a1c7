/** `postern send` and `postern receive`. */
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import type { Command } from 'commander'
import { CliError, type Client, queuePath } from './client.ts'
import { type Output, progress } from './output.ts'

type Context = (command: Command) => { client: Client; out: Output; json: boolean }

const linesPerBatch = 500

type SendOptions = {
  file?: string
  lines?: boolean
  delay?: string
  ttl?: string
  priority?: string
  key?: string
  dedupId?: string
  contentType?: string
  header?: string[]
}

export function sendCommand(program: Command, context: Context): void {
  program
    .command('send')
    .description('send a message: the argument, --file, or what comes in on stdin')
    .argument('<queue>')
    .argument('[body]')
    .option('-f, --file <path>', 'the body, or with --lines the lines, of a file')
    .option('-l, --lines', 'each line is a message')
    .option('--delay <duration>', 'such as 30s')
    .option('--ttl <duration>')
    .option('--priority <0-9>')
    .option('--message-key <key>', 'the key of the message')
    .option('--dedup-id <id>')
    .option('--content-type <type>')
    .option('--header <name=value...>', 'message headers')
    .action(
      async (
        queue: string,
        body: string | undefined,
        options: SendOptions & { messageKey?: string },
        command: Command,
      ) => {
        const { client, out } = context(command)
        if (options.lines) return await sendLines(client, out, queue, options)
        const headers = Object.fromEntries(
          (options.header ?? []).map((each) => [
            `Postern-Header-${each.split('=')[0]}`,
            each.slice(each.indexOf('=') + 1),
          ]),
        )
        const bytes = body ?? (options.file ? await readFile(options.file) : await stdin())
        const sent = await client.json<{ id: string; deduplicated?: boolean }>('POST', queuePath(queue, '/messages'), {
          query: {
            delay: options.delay,
            ttl: options.ttl,
            priority: options.priority,
            key: options.messageKey,
            dedup_id: options.dedupId,
          },
          body: bytes,
          type: options.contentType ?? (isJson(bytes.toString()) ? 'application/json' : 'text/plain; charset=utf-8'),
          headers,
        })
        out.data(sent, () => `${sent.id}${sent.deduplicated ? ' (already sent)' : ''}`)
      },
    )
}

async function sendLines(client: Client, out: Output, queue: string, options: SendOptions): Promise<void> {
  const bar = progress()
  const more = Object.fromEntries(
    Object.entries({
      delay: options.delay,
      ttl: options.ttl,
      priority: options.priority && Number(options.priority),
    }).filter(([, value]) => value !== undefined),
  )
  let sent = 0
  let batch: string[] = []
  async function flush(): Promise<void> {
    const messages = batch.map((body) => ({
      body,
      ...more,
      ...(options.contentType ? { content_type: options.contentType } : {}),
    }))
    batch = []
    const { results } = await client.json<{ results: { error?: { detail: string } }[] }>(
      'POST',
      queuePath(queue, '/messages/batch'),
      {
        body: JSON.stringify({ messages }),
        type: 'application/json',
      },
    )
    const refused = results.findIndex((each) => each.error)
    if (refused >= 0)
      throw new CliError(
        1,
        `Line ${sent + refused + 1}: ${results[refused]?.error?.detail} (the lines before it are sent)`,
      )
    sent += results.length
    bar.show(`${sent} sent`)
  }
  for await (const line of createInterface({
    input: options.file ? createReadStream(options.file) : process.stdin,
    crlfDelay: Number.POSITIVE_INFINITY,
  })) {
    if (line === '') continue
    batch.push(line)
    if (batch.length === linesPerBatch) await flush()
  }
  if (batch.length > 0) await flush()
  bar.end()
  out.data({ sent }, () => `${sent} sent`)
}

type Received = { messages: { id: string; receipt: string; body?: string; body_base64?: string; attempt: number }[] }
type ReceiveOptions = { max: string; wait: string; lease?: string; follow?: boolean; ack?: boolean }

export function receiveCommand(program: Command, context: Context): void {
  program
    .command('receive')
    .description('lease messages and print them; without --ack they come back when the lease ends')
    .argument('<queue>')
    .option('-n, --max <count>', 'messages at a time', '1')
    .option('-w, --wait <duration>', 'how long to wait for the first', '0')
    .option('--lease <duration>')
    .option('--ack', 'acknowledge after printing')
    .option('--follow', 'go on until interrupted')
    .action(async (queue: string, options: ReceiveOptions, command: Command) => {
      const { client, out, json } = context(command)
      const interrupted = new AbortController()
      process.once('SIGINT', () => interrupted.abort())
      do {
        const query = { max: options.max, wait: options.follow ? '20s' : options.wait, lease: options.lease }
        const answer = await client
          .json<Received>('POST', queuePath(queue, '/receive'), { query, signal: interrupted.signal })
          .catch((error) => {
            if (interrupted.signal.aborted) return { messages: [] }
            throw error
          })
        for (const message of answer.messages) {
          // Printed before it is acknowledged: a crash between the two prints twice and loses nothing.
          out.data(message, () => message.body ?? `base64:${message.body_base64}`)
          if (options.ack) await client.call('DELETE', `/v1/leases/${message.receipt}`)
        }
        if (!options.follow && answer.messages.length === 0 && !json) out.note('(no messages)')
      } while (options.follow && !interrupted.signal.aborted)
      if (interrupted.signal.aborted) process.exitCode = 130
    })
}

async function stdin(): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of process.stdin) parts.push(part as Buffer)
  return Buffer.concat(parts)
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
