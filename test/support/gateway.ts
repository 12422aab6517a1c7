/** Gateways as processes of their own, to be killed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { eventually } from './postgres.ts'

export type Gateway = {
  url: string
  pid: number
  output(): string
  kill(signal: NodeJS.Signals): void
  /** The exit code, or the signal. */
  exited: Promise<number | NodeJS.Signals | null>
}

const root = new URL('../../', import.meta.url).pathname

/** Started, but perhaps not listening yet. */
export function spawnGateway(
  environment: Record<string, string>,
  nodeWords: string[] = [],
): { child: ChildProcess; output(): string; exited: Gateway['exited'] } {
  const child = spawn(process.execPath, ['--import', 'tsx', ...nodeWords, 'src/main.ts'], {
    cwd: root,
    env: { PATH: process.env.PATH ?? '', PORT: '0', LOG_FORMAT: 'json', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => (text += part))
  const exited = new Promise<number | NodeJS.Signals | null>((resolve) =>
    child.once('exit', (code, signal) => resolve(code ?? signal)),
  )
  return { child, output: () => text, exited }
}

export async function startGateway(environment: Record<string, string>, nodeWords: string[] = []): Promise<Gateway> {
  const { child, output, exited } = spawnGateway(environment, nodeWords)
  const url = await eventually(() => {
    if (child.exitCode !== null) throw new Error(`the gateway ended: ${output()}`)
    return /"event":"listening","url":"([^"]+)"/.exec(output())?.[1]
  }, 60_000)
  return { url, pid: child.pid ?? 0, output, kill: (signal) => void child.kill(signal), exited }
}

type Message = { id: string; receipt: string; body: string; attempt: number }

export async function http(
  gateway: Gateway,
  method: string,
  path: string,
  body?: string,
  timeoutMs = 60_000,
): Promise<Response> {
  return await fetch(`${gateway.url}${path}`, {
    method,
    ...(body === undefined
      ? {}
      : { body, headers: { 'content-type': /\/messages(\?|$)/.test(path) ? 'text/plain' : 'application/json' } }),
    signal: AbortSignal.timeout(timeoutMs),
  })
}

export async function receiveFrom(gateway: Gateway, queue: string, query: string): Promise<Message[]> {
  const answer = await http(gateway, 'POST', `/v1/queues/${queue}/receive?${query}`)
  if (!answer.ok) throw new Error(`receive: ${answer.status}`)
  return ((await answer.json()) as { messages: Message[] }).messages
}

/** Takes and acknowledges until `wanted` says that it is enough; the bodies, in order. */
export async function drain(
  gateway: Gateway,
  queue: string,
  wanted: (bodies: Set<string>) => boolean,
  ms = 60_000,
): Promise<Set<string>> {
  const bodies = new Set<string>()
  await eventually(async () => {
    const messages = await receiveFrom(gateway, queue, 'max=1000&wait=1s').catch(() => [])
    for (const message of messages) bodies.add(message.body)
    const receipts = messages.map((message) => message.receipt)
    if (receipts.length > 0)
      await http(gateway, 'POST', `/v1/queues/${queue}/settle`, JSON.stringify({ ack: receipts }))
    return wanted(bodies)
  }, ms)
  return bodies
}

/** Sends one message at a time from `senders` at once until `until`; which were acknowledged, and every status met. */
export async function load(
  gateways: Gateway[],
  queue: string,
  senders: number,
  until: () => boolean,
): Promise<{ acknowledged: Set<string>; statuses: Set<number> }> {
  const acknowledged = new Set<string>()
  const statuses = new Set<number>()
  await Promise.all(
    Array.from({ length: senders }, async (_, sender) => {
      for (let n = 0; !until() && n < 20_000; n++) {
        const gateway = gateways[(sender + n) % gateways.length] as Gateway
        const body = `${sender}-${n}`
        const answer = await http(gateway, 'POST', `/v1/queues/${queue}/messages`, body, 25_000).catch(
          (error: Error) => {
            // A refused or broken connection is an answer; silence is not.
            if (error.name === 'TimeoutError') throw new Error('a send was left hanging')
            return null
          },
        )
        if (answer === null) continue
        statuses.add(answer.status)
        await answer.arrayBuffer()
        if (answer.status === 201) acknowledged.add(body)
        if (answer.status === 503 && !answer.headers.has('retry-after')) throw new Error('503 without Retry-After')
      }
    }),
  )
  return { acknowledged, statuses }
}
