/**
 * Local mode: a real Postgres from npm binaries, so that a clone runs with nothing else installed. Every gateway on the
 * same folder shares one server; whoever finds it dead starts it again on the same port; the last to leave stops it.
 * Only used without DATABASE_URL.
 */
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import path from 'node:path'
import { type Loop, loop, monotonicMs, sleep } from '../../base/index.ts'
import { type Account, account, binaries, reachableFolder } from './binaries.ts'
import { isAlive, isOccupied, type Postmaster, runningPostmaster } from './processes.ts'

export type Embedded = { url: string; pid(): number; dataDir: string; stop(): Promise<void> }
export type EmbeddedOptions = {
  dir: string
  log(event: string, fields?: Record<string, unknown>): void
  /** For tests: no fsync, and nothing is left behind. */
  ephemeral?: boolean
}

type Place = { dir: string; data: string; users: string; who: Account; ephemeral: boolean }

const superviseMs = 300
const environment = { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/bin:/bin' }

/** Starts, joins or takes over the server of this folder. Throws with a reason for people. */
export async function startEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  const wanted = path.resolve(options.dir)
  const dir = reachableFolder(wanted)
  if (dir !== wanted)
    options.log('embedded postgres elsewhere', { reason: `an unprivileged account cannot enter ${wanted}`, dir })
  const place: Place = {
    dir,
    data: path.join(dir, 'pgdata'),
    users: path.join(dir, 'users'),
    who: account(),
    ephemeral: options.ephemeral ?? false,
  }
  mkdirSync(place.users, { recursive: true, mode: 0o755 })
  // Before looking: from here on the watchdog of a running server leaves it alone.
  writeFileSync(path.join(place.users, String(process.pid)), '')
  const ensure = () => exclusively(path.join(dir, 'starting.pid'), () => serverOf(place))
  let server = await ensure()

  const supervising: Loop = loop(
    async () => {
      const running = runningPostmaster(place.data)
      if (!running) {
        options.log('embedded postgres died', { pid: server.pid })
        server = await ensure()
        options.log('embedded postgres is back', { pid: server.pid })
      } else server = running
      return superviseMs
    },
    { retryMs: 1000, failed: (error) => options.log('embedded postgres does not start', { error }) },
  )

  const password = readFileSync(path.join(dir, 'password'), 'utf8').trim()
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${server.port}/postgres`,
    pid: () => server.pid,
    dataDir: dir,
    async stop() {
      await supervising.stop()
      await exclusively(path.join(dir, 'starting.pid'), () => leave(place))
    },
  }
}

/** Under the lock: the running server, or a new one on the port of old, so that others' connections find it again. */
async function serverOf(place: Place): Promise<Postmaster> {
  const running = runningPostmaster(place.data)
  // One that is starting will be ready; one that is stopping, because nobody was left, is followed by a new one.
  const joined = running && (running.ready ? running : await readiness(place, () => isAlive(running.pid)))
  if (joined) return joined
  const bin = binaries(place.dir)
  if (!existsSync(path.join(place.data, 'PG_VERSION'))) initialise(place, bin)
  const untilMs = monotonicMs() + 10_000
  while (isOccupied(place.data) && monotonicMs() < untilMs) await sleep(50)
  rmSync(path.join(place.data, 'postmaster.pid'), { force: true })
  const portFile = path.join(place.dir, 'port')
  if (!existsSync(portFile)) writeFileSync(portFile, String(await freePort()))
  return await launch(place, bin, Number(readFileSync(portFile, 'utf8')))
}

/** Renamed when complete: an initdb that is killed leaves no half cluster. */
function initialise(place: Place, bin: string): void {
  const fresh = `${place.data}.new`
  const passwordFile = path.join(place.dir, 'password.new')
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { mode: 0o700 })
  writeFileSync(passwordFile, `${randomBytes(18).toString('base64url')}\n`, { mode: 0o600 })
  own(place.who, fresh)
  own(place.who, passwordFile)
  const words = [
    '-D',
    fresh,
    '-U',
    'postgres',
    '-A',
    'scram-sha-256',
    `--pwfile=${passwordFile}`,
    '-E',
    'UTF8',
    '--no-locale',
    '--no-sync',
  ]
  const made = spawnSync(path.join(bin, 'initdb'), words, {
    ...place.who,
    env: environment,
    cwd: place.dir,
    encoding: 'utf8',
  })
  if (made.status !== 0) throw new Error(`initdb failed: ${made.error?.message ?? ''}${made.stderr ?? ''}`)
  renameSync(passwordFile, path.join(place.dir, 'password'))
  renameSync(fresh, place.data)
}

function settings(place: Place, port: number): Record<string, string> {
  return {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    max_connections: '200',
    shared_buffers: '128MB',
    // Rows live for seconds: look for dead ones often.
    autovacuum_naptime: '10s',
    max_wal_size: '2GB',
    log_min_messages: 'warning',
    ...(place.ephemeral ? { fsync: 'off', full_page_writes: 'off', synchronous_commit: 'off' } : {}),
  }
}

async function launch(place: Place, bin: string, port: number): Promise<Postmaster> {
  const logFile = path.join(place.dir, 'postgres.log')
  const log = openSync(logFile, 'a')
  own(place.who, logFile)
  const words = Object.entries(settings(place, port)).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  // Detached: Ctrl-C must reach the gateway, which stops the server in its turn.
  const child = spawn(path.join(bin, 'postgres'), ['-D', place.data, ...words], {
    ...place.who,
    env: environment,
    cwd: place.dir,
    detached: true,
    stdio: ['ignore', log, log],
  })
  closeSync(log)
  let failed: string | undefined
  child.once('error', (error) => {
    failed = error.message
  })
  child.once('exit', (code, signal) => {
    failed = `Postgres ended (code ${code}, signal ${signal}); see ${logFile}`
  })
  child.unref()
  const server = await readiness(place, () => {
    if (failed !== undefined) throw new Error(failed)
    return true
  })
  if (!server) throw new Error('Postgres ended before it was ready.')
  watch(place, server.pid)
  return server
}

/** undefined: there is no hope left. */
async function readiness(place: Place, stillHopeful: () => boolean): Promise<Postmaster | undefined> {
  const untilMs = monotonicMs() + 60_000
  for (;;) {
    if (!stillHopeful()) return undefined
    const server = runningPostmaster(place.data)
    if (server?.ready) return server
    if (monotonicMs() > untilMs) throw new Error('Postgres was not ready within 60 s.')
    await sleep(20)
  }
}

/** A shell that outlives every gateway and stops the server when none is left: kill -9 leaves nobody else to do it. */
function watch(place: Place, pid: number): void {
  const script = `while kill -0 "$1" 2>/dev/null; do sleep 1; alive=; for f in "$2"/*; do kill -0 "\${f##*/}" 2>/dev/null && alive=1; done
    [ -n "$alive" ] || { kill -INT "$1"; ${place.ephemeral ? 'while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; rm -rf "$3"; ' : ''}exit; }; done`
  const shell = spawn('/bin/sh', ['-c', script, 'postern-watchdog', String(pid), place.users, place.dir], {
    detached: true,
    stdio: 'ignore',
    cwd: '/',
    env: environment,
  })
  shell.on('error', () => {})
  shell.unref()
}

/** Under the lock: the last to leave stops the server. */
async function leave(place: Place): Promise<void> {
  rmSync(path.join(place.users, String(process.pid)), { force: true })
  const others = readdirSync(place.users).map(Number)
  for (const pid of others) if (!isAlive(pid)) rmSync(path.join(place.users, String(pid)), { force: true })
  if (others.some(isAlive)) return
  const server = runningPostmaster(place.data)
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
    if (!server || !isAlive(server.pid)) break
    process.kill(server.pid, signal)
    const untilMs = monotonicMs() + 15_000
    while (isAlive(server.pid) && monotonicMs() < untilMs) await sleep(20)
  }
  if (place.ephemeral) rmSync(place.dir, { recursive: true, force: true })
}

/** The process that holds a lock file; 0 when nobody does, or has just let go. */
function holderOf(file: string): number {
  try {
    return Number(readFileSync(file, 'utf8').trim() || 0)
  } catch {
    return 0
  }
}

/** One starter or leaver at a time; a lock whose holder has died is broken. */
async function exclusively<T>(file: string, run: () => Promise<T>): Promise<T> {
  const untilMs = monotonicMs() + 90_000
  while (!acquired(file)) {
    const holder = holderOf(file)
    if (holder !== 0 && !isAlive(holder)) rmSync(file, { force: true })
    if (monotonicMs() > untilMs) throw new Error(`${file} is held by process ${holder}.`)
    await sleep(50)
  }
  try {
    return await run()
  } finally {
    rmSync(file, { force: true })
  }
}

/** The lock appears with its holder in it: one that was made first and written then would, on a full disk, stay behind and name nobody. */
function acquired(file: string): boolean {
  const mine = `${file}.${randomBytes(6).toString('hex')}`
  try {
    writeFileSync(mine, String(process.pid))
    linkSync(mine, file)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  } finally {
    rmSync(mine, { force: true })
  }
}

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })

function own(who: Account, file: string): void {
  if (who.uid !== undefined && who.gid !== undefined) chownSync(file, who.uid, who.gid)
}
