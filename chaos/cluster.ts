/**
 * What is being broken: gateways as processes, each with a proxy on its way to one embedded Postgres, and in front of all of them one
 * proxy that spreads connections. Everything it starts it ends; a gateway whose parent has died ends by itself.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type Embedded, startEmbedded } from '../src/store/embedded/index.ts'
import { type Link, startProxy } from './proxy.ts'

export type Gateway = {
  number: number
  /** Between it and Postgres. */
  back: Link
  /** Where it listens; null: it is down. */
  port: number | null
  pid: number
  up(): boolean
  start(): Promise<void>
  /** Resolves with the exit code, or the signal. */
  end(signal: 'SIGKILL' | 'SIGTERM'): Promise<number | string | null>
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void
}

export type Cluster = {
  postgres: Embedded
  gateways: Gateway[]
  /** For clients: one proxy before all gateways. */
  front: Link
  /** The file system of the database when it is one of its own, which may be filled; null: it is not. */
  disk: string | null
  stop(): Promise<void>
}

export type ClusterOptions = {
  /** A gateway that nobody has ended has ended, and how. */
  mishap(text: string): void
  log(text: string): void
  /** Another checkout, which the first gateway runs until it is restarted. */
  previous: string | null
  ownDisk: boolean
}

export const drainMs = 8_000
const root = new URL('../', import.meta.url).pathname
/** Whoever is left behind by a parent that was killed has another parent then. */
const endsWithParent =
  'data:text/javascript,const was=process.ppid;setInterval(()=>{if(process.ppid!==was)process.exit(1)},500).unref()'

export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  const dir = mkdtempSync(path.join(tmpdir(), 'postern-chaos-'))
  const disk = options.ownDisk ? mounted(dir) : null
  const cleanUp = () => unmounted(dir, disk !== null)
  // Also when somebody has no patience.
  process.once('exit', cleanUp)
  // Root lets an unprivileged account run Postgres, which must be able to enter.
  chmodSync(dir, 0o755)
  const closing: (() => Promise<unknown>)[] = [async () => void process.off('exit', cleanUp), async () => cleanUp()]
  const stop = async () => {
    const failed: unknown[] = []
    for (const step of closing.splice(0).reverse()) await step().catch((error) => failed.push(error))
    if (failed.length > 0) throw new AggregateError(failed, 'Not everything could be stopped.')
  }
  try {
    const postgres = await startEmbedded({ dir, log: (event) => options.log(`  ${event}`) })
    closing.push(() => postgres.stop())
    const gateways: Gateway[] = []
    const front = await startProxy(() => gateways.flatMap(({ port }) => port ?? []))
    closing.push(() => front.close())
    for (let number = 0; number < 3; number++) {
      const gateway = await gatewayOn(postgres.url, number, options)
      gateways.push(gateway)
      closing.push(async () => {
        if (gateway.up()) await gateway.end('SIGTERM')
        await gateway.back.close()
      })
    }
    await Promise.all(gateways.map((gateway) => gateway.start()))
    return { postgres, gateways, front, disk, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function gatewayOn(postgresUrl: string, number: number, options: ClusterOptions): Promise<Gateway> {
  const url = new URL(postgresUrl)
  const back = await startProxy(() => [Number(url.port)])
  const through = postgresUrl.replace(`:${url.port}/`, `:${back.port}/`)
  let folder = number === 0 ? (options.previous ?? root) : root
  let child: ChildProcess | undefined
  let exited: Promise<number | string | null> = Promise.resolve(null)
  let isEnding = true

  const gateway: Gateway = {
    number,
    back,
    port: null,
    pid: 0,
    up: () => !isEnding,
    async start() {
      const { child: started, port, output } = spawned(folder, through)
      child = started
      isEnding = false
      gateway.pid = started.pid ?? 0
      exited = new Promise((resolve) => started.once('exit', (code, signal) => resolve(code ?? signal)))
      void exited.then((how) => {
        if (child !== started) return
        gateway.port = null
        if (!isEnding) options.mishap(`gateway ${number} ended by itself (${how}): ${output().slice(-2000)}`)
        isEnding = true
      })
      gateway.port = await Promise.race([port, exited.then(() => null)])
    },
    async end(signal) {
      isEnding = true
      if (signal === 'SIGKILL') gateway.port = null
      // Told to stop, it is a target until it refuses.
      const ending = child
      ending?.kill(signal)
      const late = setTimeout(() => ending?.kill('SIGKILL'), drainMs + 10_000)
      const how = await exited
      clearTimeout(late)
      gateway.port = null
      folder = root
      return how
    },
    signal: (signal) => void child?.kill(signal),
  }
  return gateway
}

function spawned(cwd: string, databaseUrl: string): { child: ChildProcess; port: Promise<number>; output(): string } {
  const child = spawn(process.execPath, ['--import', 'tsx', '--import', endsWithParent, 'src/main.ts'], {
    cwd,
    env: {
      PATH: process.env.PATH ?? '',
      PORT: '0',
      LOG_FORMAT: 'json',
      LOG_LEVEL: 'info',
      DATABASE_URL: databaseUrl,
      DATABASE_POOL: '6',
      ALLOW_PRIVATE_WEBHOOKS: 'true',
      DRAIN: `${drainMs}ms`,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  const port = new Promise<number>((resolve) => {
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (part) => {
        text = (text + part).slice(-20_000)
        const found = /"event":"listening","url":"http:\/\/[^"]*:(\d+)"/.exec(text)?.[1]
        if (found) resolve(Number(found))
      })
  })
  return { child, port, output: () => text }
}

/** A small file system in memory over the folder, where that is allowed. */
function mounted(dir: string): string | null {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return null
  return spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=700m,mode=755', 'postern-chaos', dir]).status === 0 ? dir : null
}

function unmounted(dir: string, isMounted: boolean): void {
  if (isMounted) spawnSync('umount', ['-l', dir])
  rmSync(dir, { recursive: true, force: true })
}
