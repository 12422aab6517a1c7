/**
 * `postern listen`: what a webhook would deliver, to an endpoint that no gateway can reach, such as one on a developer's machine.
 * However it ends short of kill -9, the queue and the binding that it made are removed.
 */
import { type Command, Option } from 'commander'
import { after, monotonicMs, randomToken, sleep, wallMs } from '../base/index.ts'
import {
  type Interest,
  retryAfterMs,
  type SubscriptionFormat,
  type SubscriptionSource,
  subscriptionFormats,
  urlError,
} from '../model/index.ts'
import { version } from '../version.ts'
import { bindingPath, CliError, type Client, jsonBody, mayPass, queuePath } from './client.ts'
import type { Context } from './context.ts'
import type { Output } from './output.ts'
import { interestFrom } from './topics.ts'

type Options = {
  forward: string
  topic?: string
  queue?: string
  pattern?: string
  filter?: string
  format: SubscriptionFormat
  secret?: string
}

/** Deliveries under way at once. */
const most = 10
const timeoutMs = 30_000
/** Longer than a forward can take. */
const lease = '1m'
const wait = '20s'
const retryMs = 5_000
const mostRetryMs = 60_000
/** For a gateway that restarts. */
const pauseMs = 1_000

export function listenCommand(program: Command, context: Context): void {
  program
    .command('listen')
    .description('forward messages to a local endpoint as a webhook would, until interrupted')
    .requiredOption('--forward <url>', 'where to, such as http://localhost:3000/hook')
    .option('--topic <topic>', 'copies of its messages, published from now on')
    .option('--pattern <pattern>', 'with --topic, over the routing key: * one word, # any number (#)')
    .option('--filter <json>', 'with --topic, over headers and body')
    .option('--queue <queue>', 'its messages themselves: no other consumer gets them')
    .addOption(new Option('--format <format>', 'of the request').choices(subscriptionFormats).default('raw'))
    .option('--secret <secret>', 'to sign with, such as whsec_… (a new one)')
    .action(async (options: Options, command: Command) => {
      const { client, out, json } = context(command)
      check(options)
      const stop = interruption()
      const { newSecret } = await import('../push/index.ts')
      const secret = options.secret ?? newSecret()
      const origin = await originOf(client, out, options)
      try {
        await origin.open()
        out.note(`Forwarding ${options.topic ?? origin.queue} to ${options.forward}, signed with ${secret}`)
        const forward = await forwarder({ client, out, json, options, origin, secret })
        await pump(receiver(client, out, origin.queue, stop.signal), forward, stop, out)
      } finally {
        await origin.remove()
      }
    })
}

function check({ forward, topic, queue, pattern, filter, secret }: Options): void {
  if ((topic === undefined) === (queue === undefined)) throw new CliError(2, 'Give --topic or --queue, and not both.')
  if (queue !== undefined && (pattern !== undefined || filter !== undefined))
    throw new CliError(2, '--pattern and --filter are for a --topic.')
  const wrong = urlError(forward)
  if (wrong !== null) throw new CliError(2, `--forward ${wrong}`)
  if (secret !== undefined && !/^whsec_[A-Za-z0-9+/]{4,}={0,2}$/.test(secret))
    throw new CliError(2, '--secret must be whsec_ and base64, such as postern subscriptions secret shows it')
}

/** Once for each signal: who interrupts again waits for nothing. */
function interruption(): AbortController {
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      process.exitCode = 130
      stop.abort()
    })
  return stop
}

type Origin = { queue: string; source: SubscriptionSource; open(): Promise<void>; remove(): Promise<void> }

/** A queue is there already; a topic is bound to one of our own, which is made here and bound by `open`. */
async function originOf(client: Client, out: Output, options: Options): Promise<Origin> {
  const { topic, queue: given } = options
  const nothing = async () => {}
  if (topic === undefined) {
    const queue = given ?? ''
    return { queue, source: { queue }, open: nothing, remove: nothing }
  }
  const queue = `listen-${randomToken().toString(36)}`
  const interest = { pattern: '#', filter: null, ...interestFrom(options) } as Interest
  // What makes an end of a message is its age: while the local endpoint is down each is tried every few seconds.
  await client.call('PUT', queuePath(queue), jsonBody({ ttl: '1h', lease, max_attempts: 1000 }))
  return {
    queue,
    source: { topic, ...interest },
    async open() {
      await client.call('PUT', bindingPath(topic, queue), jsonBody({ queue, ...interest }))
    },
    async remove() {
      await gone(client, out, bindingPath(topic, queue))
      await gone(client, out, `${queuePath(queue)}?force=true`)
    },
  }
}

/** Says so when it could not be done, and goes on: what ended the command is more important. */
async function gone(client: Client, out: Output, path: string): Promise<void> {
  await client.call('DELETE', path).catch((error: unknown) => {
    if (error instanceof CliError && error.status === 404) return
    out.note(`Could not remove ${path}: ${textOf(error)}`)
  })
}

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

type Message = {
  id: string
  receipt: string
  body?: string
  body_base64?: string
  content_type: string
  headers: Record<string, string>
  key: string | null
  priority: number
  attempt: number
  enqueued_at: string
}

/**
 * Waits for up to `max` messages. Once a first answer has come it outlives a gateway that restarts or is overloaded for a while. What
 * is on its way when `signal` breaks off the wait comes again when its lease ends.
 */
function receiver(client: Client, out: Output, queue: string, signal: AbortSignal) {
  let reached = false
  return async (max: number): Promise<Message[]> => {
    try {
      const query = { max: String(max), wait, lease }
      const path = queuePath(queue, '/receive')
      const { messages } = await client.json<{ messages: Message[] }>('POST', path, { query, signal })
      reached = true
      return messages
    } catch (error) {
      if (signal.aborted) return []
      if (!reached || !mayPass(error)) throw error
      out.note(`${error.message} Trying again.`)
      await sleep(pauseMs, signal)
      return []
    }
  }
}

/** Resolves to how long to leave the endpoint alone, in milliseconds. */
type Forward = (message: Message) => Promise<number>

/** Until `stop`, which it also pulls when something goes wrong; then waits for what is under way. Throws what went wrong first. */
async function pump(
  receive: (max: number) => Promise<Message[]>,
  forward: Forward,
  stop: AbortController,
  out: Output,
): Promise<void> {
  const underWay = new Set<Promise<void>>()
  const failures: unknown[] = []
  let heldUntilMs = 0
  const failed = (error: unknown): void => {
    failures.push(error)
    stop.abort()
  }
  async function deliver(message: Message): Promise<void> {
    const holdMs = await forward(message)
    if (holdMs > 0) heldUntilMs = Math.max(heldUntilMs, monotonicMs() + holdMs)
  }
  while (!stop.signal.aborted) {
    await sleep(heldUntilMs - monotonicMs(), stop.signal)
    if (underWay.size >= most) await Promise.race(underWay)
    const messages = stop.signal.aborted ? [] : await receive(most - underWay.size).catch(failed)
    for (const message of messages ?? []) {
      const task = deliver(message)
        .catch(failed)
        .finally(() => underWay.delete(task))
      underWay.add(task)
    }
  }
  if (underWay.size > 0) out.note(`Waiting for ${underWay.size} under way; interrupt again to leave them.`)
  await Promise.all(underWay)
  if (failures.length > 0) throw failures[0]
}

type Site = { client: Client; out: Output; json: boolean; options: Options; origin: Origin; secret: string }

async function forwarder({ client, out, json, options, origin, secret }: Site): Promise<Forward> {
  const { webhookRequest } = await import('../push/index.ts')
  const { queue, source } = origin
  const target = { id: 'sub_listen', format: options.format, headers: {}, queue, source }
  let isAway = false
  return async (message) => {
    const nowMs = wallMs()
    const facts = { secrets: [secret], nowMs, attempt: message.attempt, version }
    const answer = await post(options.forward, webhookRequest(deliveryFrom(message), target, facts))
    const retry = retryOf(answer)
    await settle(client, out, message, retry?.delayMs ?? null)
    const { status, durationMs, error } = answer
    const routingKey = message.headers['postern-routing-key'] ?? null
    const at = new Date(nowMs).toISOString()
    const line = [at, message.id, routingKey ?? '-', status ?? error, `${durationMs} ms`, retry?.text ?? '']
    const said = { at, id: message.id, routing_key: routingKey, attempt: message.attempt }
    if (answer.kind !== 'unreachable' || json)
      await out.data({ ...said, status, duration_ms: durationMs, error }, () => line.join('  ').trimEnd())
    if (answer.kind === 'unreachable' && !isAway)
      out.note(`Could not reach ${options.forward} (${error}): is your server running? Trying every 5 s.`)
    isAway = answer.kind === 'unreachable'
    return retry?.holds ? retry.delayMs : 0
  }
}

const deliveryFrom = (message: Message) => ({
  id: message.id,
  body: message.body === undefined ? Buffer.from(message.body_base64 ?? '', 'base64') : Buffer.from(message.body),
  contentType: message.content_type,
  headers: message.headers,
  key: message.key,
  priority: message.priority,
  attempt: message.attempt,
  enqueuedAt: new Date(message.enqueued_at),
})

type Answer = { durationMs: number } & (
  | { kind: 'answer'; status: number; error: null; retryAfter: string | null }
  | { kind: 'timeout' | 'unreachable'; status: null; error: string }
)

/** Not fetch, which adds headers of its own and refuses some ports. Follows no redirect; never throws. */
async function post(
  url: string,
  { headers, body }: { headers: Record<string, string>; body: Buffer },
): Promise<Answer> {
  const { request } = await import('undici')
  const deadline = new AbortController()
  const timer = after(timeoutMs, () => deadline.abort())
  const startMs = monotonicMs()
  const pastMs = (): number => Math.round(monotonicMs() - startMs)
  try {
    const answer = await request(url, { method: 'POST', headers, body, signal: deadline.signal })
    const durationMs = pastMs()
    // The status counts, whatever becomes of the rest.
    await answer.body.dump().catch(() => {})
    const retryAfter = answer.headers['retry-after']
    const text = typeof retryAfter === 'string' ? retryAfter : null
    return { kind: 'answer', status: answer.statusCode, error: null, retryAfter: text, durationMs }
  } catch (error) {
    const durationMs = pastMs()
    if (deadline.signal.aborted) return { kind: 'timeout', status: null, error: 'timeout', durationMs }
    const code = error instanceof Error && 'code' in error ? String(error.code) : textOf(error)
    return { kind: 'unreachable', status: null, error: code, durationMs }
  } finally {
    timer.cancel()
  }
}

/** null: delivered. `holds`: for the endpoint as a whole, so that a backlog does not burn its attempts on one that is away. */
function retryOf(answer: Answer): { delayMs: number; holds: boolean; text: string } | null {
  if (answer.kind === 'answer' && answer.status >= 200 && answer.status < 300) return null
  const asked =
    answer.kind === 'answer' && (answer.status === 429 || answer.status === 503)
      ? retryAfterMs(answer.retryAfter, wallMs())
      : null
  const delayMs = Math.min(asked ?? retryMs, mostRetryMs)
  const holds = asked !== null || answer.kind === 'unreachable'
  return { delayMs, holds, text: `again in ${Math.ceil(delayMs / 1000)} s` }
}

/** `delayMs` null: ack. A lease that could not be settled ends by itself. */
async function settle(client: Client, out: Output, { id, receipt }: Message, delayMs: number | null): Promise<void> {
  const path = `/v1/leases/${encodeURIComponent(receipt)}`
  const done =
    delayMs === null
      ? client.call('DELETE', path)
      : client.call('POST', `${path}/nack`, { query: { delay: `${delayMs}ms` } })
  await done.catch((error: unknown) => out.note(`${id} could not be settled, and comes again: ${textOf(error)}`))
}
