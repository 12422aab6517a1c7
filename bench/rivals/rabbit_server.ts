/**
 * A RabbitMQ of the benchmark's own on loopback, when one is installed: its own node, ports, database folder and port mapper, with no
 * plugins; both end with this process, however it ends, for a shell waits for the end of its input.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import path from 'node:path'
import { type Place, sleep } from '../place.ts'

export type RabbitServer = { url: string; pid: number }

const readyWithinMs = 60_000
/** Debian's script in PATH changes the account and the folder; the one behind it starts the server as it is told to. */
const places = ['/usr/lib/rabbitmq/bin', ...(process.env.PATH ?? '').split(':')]

export const findRabbit = (): string | null =>
  places.map((dir) => path.join(dir, 'rabbitmq-server')).find((file) => existsSync(file)) ?? null

/** Goes with the place. */
export async function startRabbit(place: Place, file: string): Promise<RabbitServer> {
  const dir = path.join(place.dir, 'rabbitmq')
  mkdirSync(dir)
  const [port, distribution, mapper] = await Promise.all([freePort(), freePort(), freePort()])
  const pidFile = path.join(dir, 'pid')
  const script = `epmd -port ${mapper} -address 127.0.0.1 & mapper=$!
    "$1" >"$2/output" 2>&1 </dev/null & server=$!
    cat >/dev/null
    kill $server; wait $server; kill $mapper; wait $mapper`
  const shell = spawn('/bin/sh', ['-c', script, 'postern-bench', file, dir], {
    stdio: ['pipe', 'ignore', 'ignore'],
    // Ctrl-C must reach the benchmark alone, which stops the server in its turn.
    detached: true,
    cwd: dir,
    env: environment(dir, { port, distribution, mapper }),
  })
  let gone = false
  const exited = new Promise<void>((resolve) =>
    shell.once('exit', () => {
      gone = true
      resolve()
    }),
  )
  place.closing.push(async () => {
    shell.stdin.end()
    await exited
  })
  const untilMs = performance.now() + readyWithinMs
  while (!existsSync(pidFile) || !(await answers(port))) {
    if (gone || performance.now() > untilMs)
      throw new Error(`RabbitMQ does not start: ${readFileSync(path.join(dir, 'output'), 'utf8').slice(-2000)}`)
    await sleep(200)
  }
  return { url: `amqp://guest:guest@127.0.0.1:${port}`, pid: Number(readFileSync(pidFile, 'utf8')) }
}

type Ports = { port: number; distribution: number; mapper: number }

const environment = (dir: string, { port, distribution, mapper }: Ports): NodeJS.ProcessEnv => ({
  PATH: process.env.PATH,
  HOME: dir,
  ERL_EPMD_PORT: String(mapper),
  ERL_EPMD_ADDRESS: '127.0.0.1',
  RABBITMQ_NODENAME: `postern-bench-${process.pid}@localhost`,
  RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
  RABBITMQ_NODE_PORT: String(port),
  RABBITMQ_DIST_PORT: String(distribution),
  RABBITMQ_MNESIA_BASE: path.join(dir, 'mnesia'),
  RABBITMQ_LOG_BASE: path.join(dir, 'log'),
  RABBITMQ_ENABLED_PLUGINS_FILE: path.join(dir, 'enabled_plugins'),
  RABBITMQ_CONF_ENV_FILE: path.join(dir, 'no-conf-env'),
  RABBITMQ_CONFIG_FILE: path.join(dir, 'no-conf'),
  RABBITMQ_PID_FILE: path.join(dir, 'pid'),
  // The server itself, and not a shell that waits for it: it is the one to be stopped.
  RUNNING_UNDER_SYSTEMD: 'true',
})

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
