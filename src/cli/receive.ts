/**
 * `postern receive`, and what ends the leases it took. A message is acknowledged only after the operating system has
 * taken what was printed: whoever breaks off in between sees a message twice, and loses none.
 */
import type { Command } from 'commander'
import { sleep } from '../base/index.ts'
import { CliError, type Client, mayPass, queuePath } from './client.ts'
import type { Context } from './context.ts'
import type { Output } from './output.ts'

type Message = { id: string; receipt: string; body?: string; body_base64?: string; attempt: number }
type ReceiveOptions = { max: string; wait?: string; lease?: string; follow?: boolean; ack?: boolean; raw?: boolean }

const pauseMs = 1000

export function receiveCommand(program: Command, context: Context): void {
  program
    .command('receive')
    .description('lease messages and print their bodies; without --ack they come back when the lease ends')
    .argument('<queue>')
    .option('-n, --max <count>', 'messages at a time', '1')
    .option('-w, --wait <duration>', 'how long to wait for the first (0, with --follow 20s)')
    .option('--lease <duration>', "otherwise the queue's")
    .option('--ack', 'acknowledge each message after it is printed')
    .option('--follow', 'go on until interrupted')
    .option('--raw', 'print the bytes of each body and nothing else, not even a newline')
    .action(async (queue: string, options: ReceiveOptions, command: Command) => {
      const { client, out, json } = context(command)
      const interrupted = new AbortController()
      // Once: who interrupts again does not wait for the messages that have come.
      process.once('SIGINT', () => interrupted.abort())
      const receive = receiver(client, out, queue, options, interrupted.signal)
      const print = printer(client, out, options, json)
      do {
        const messages = await receive()
        for (const message of messages) await print(message)
        if (!options.follow && messages.length === 0 && !json) out.note('(no messages)')
      } while (options.follow && !interrupted.signal.aborted)
      if (interrupted.signal.aborted) process.exitCode = 130
    })
}

/** Once a first answer has come, `--follow` outlives a gateway that restarts or is overloaded for a while. */
function receiver(client: Client, out: Output, queue: string, options: ReceiveOptions, signal: AbortSignal) {
  let reached = false
  return async (): Promise<Message[]> => {
    const query = { max: options.max, wait: options.wait ?? (options.follow ? '20s' : undefined), lease: options.lease }
    try {
      const path = queuePath(queue, '/receive')
      const { messages } = await client.json<{ messages: Message[] }>('POST', path, { query, signal })
      reached = true
      return messages
    } catch (error) {
      if (signal.aborted) return []
      if (!options.follow || !reached || !mayPass(error)) throw error
      out.note(`${error.message} Trying again.`)
      await sleep(pauseMs, signal)
      return []
    }
  }
}

function printer(client: Client, out: Output, options: ReceiveOptions, json: boolean) {
  return async (message: Message): Promise<void> => {
    const { id, receipt, attempt, body, body_base64: base64 } = message
    await out.data(message, () =>
      options.raw
        ? Buffer.from(body ?? base64 ?? '', body === undefined ? 'base64' : 'utf8')
        : (body ?? `base64:${base64}`),
    )
    if (!options.ack) {
      if (!json && !options.raw) out.note(`  ${id}, attempt ${attempt}: postern ack ${receipt}`)
      return
    }
    await client.call('DELETE', leasePath(receipt)).catch((error: unknown) => {
      if (!(error instanceof CliError) || error.status !== 409) throw error
      out.note(`${id} was not acknowledged in time and comes again.`)
    })
  }
}

const leasePath = (receipt: string, rest = ''): string => `/v1/leases/${encodeURIComponent(receipt)}${rest}`

type SettleOptions = { delay?: string; reason?: string; lease?: string }

/** `postern ack`, `nack`, `reject` and `extend`. */
export function settleCommands(program: Command, context: Context): void {
  const verbs = {
    ack: { about: 'the message is done', method: 'DELETE', rest: '', option: null },
    nack: { about: 'hand it out again', method: 'POST', rest: '/nack', option: '--delay <duration>' },
    reject: { about: 'put it with the dead letters', method: 'POST', rest: '/reject', option: '--reason <text>' },
    extend: { about: 'keep it longer, counted from now', method: 'PATCH', rest: '', option: '--lease <duration>' },
  } as const
  for (const [verb, { about, method, rest, option }] of Object.entries(verbs)) {
    const command = program.command(verb).description(about).argument('<receipt>')
    if (verb === 'extend') command.requiredOption('--lease <duration>')
    else if (option) command.option(option)
    command.action(async (receipt: string, { delay, reason, lease }: SettleOptions, self: Command) => {
      const { client, out } = context(self)
      const body = reason !== undefined ? { reason } : lease !== undefined ? { lease } : undefined
      const answer = await client.call(method, leasePath(receipt, rest), {
        query: { delay },
        ...(body ? { body: JSON.stringify(body), type: 'application/json' } : {}),
      })
      const said = answer.status === 204 ? {} : ((await answer.json()) as { lease_expires_at?: string })
      await out.data({ outcome: `${verb}ed`, ...said }, () =>
        [`${verb}ed`, said.lease_expires_at ?? ''].join(' ').trim(),
      )
    })
  }
}
