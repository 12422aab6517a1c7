/** Local mode's own Postgres: whatever is killed, the messages are there when somebody starts again. */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { startEmbedded } from '../src/store/embedded/index.ts'
import { type Gateway, http, receiveFrom, startGateway } from './support/gateway.ts'
import { eventually } from './support/postgres.ts'

function folder(): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'postern-embedded-'))
  chmodSync(dir, 0o755)
  return dir
}

const postmaster = (dir: string): number =>
  Number(readFileSync(path.join(dir, 'pgdata', 'postmaster.pid'), 'utf8').split('\n')[0])

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

async function end(dir: string, ...gateways: Gateway[]): Promise<void> {
  const pid = postmaster(dir)
  for (const gateway of gateways) gateway.kill('SIGTERM')
  for (const gateway of gateways) expect(await gateway.exited).toBe(0)
  // The last to leave stops the server.
  await eventually(() => !isAlive(pid))
  rmSync(dir, { recursive: true, force: true })
}

test('three gateways starting at once on an empty folder share one server', async () => {
  const dir = folder()
  const gateways = await Promise.all([1, 2, 3].map(() => startGateway({ DATA_DIR: dir })))
  const [first, , third] = gateways as [Gateway, Gateway, Gateway]
  expect((await http(first, 'PUT', '/v1/queues/q')).status).toBe(201)
  expect((await http(third, 'PUT', '/v1/queues/q')).status).toBe(200)
  // Whoever started the server may leave; it stays for the others.
  first.kill('SIGTERM')
  expect(await first.exited).toBe(0)
  expect((await http(third, 'GET', '/readyz')).status).toBe(200)
  await end(dir, ...gateways.slice(1))
}, 120_000)

test('after kill -9 of the gateway, and of both, a new one finds the messages', async () => {
  const dir = folder()
  const first = await startGateway({ DATA_DIR: dir })
  await http(first, 'PUT', '/v1/queues/q')
  expect((await http(first, 'POST', '/v1/queues/q/messages', 'one')).status).toBe(201)
  first.kill('SIGKILL')
  await first.exited

  const second = await startGateway({ DATA_DIR: dir })
  expect((await http(second, 'POST', '/v1/queues/q/messages', 'two')).status).toBe(201)
  second.kill('SIGKILL')
  process.kill(postmaster(dir), 'SIGKILL')
  await second.exited

  const third = await startGateway({ DATA_DIR: dir })
  const messages = await receiveFrom(third, 'q', 'max=10&wait=5s')
  expect(messages.map((message) => message.body)).toEqual(['one', 'two'])
  await end(dir, third)
}, 120_000)

test('when every gateway is killed, the server does not stay behind', async () => {
  const dir = folder()
  const only = await startGateway({ DATA_DIR: dir })
  const pid = postmaster(dir)
  only.kill('SIGKILL')
  await eventually(() => !isAlive(pid), 20_000)
  rmSync(dir, { recursive: true, force: true })
}, 60_000)

test('a gateway that meets a server which is stopping starts the next one', async () => {
  const dir = folder()
  const first = await startGateway({ DATA_DIR: dir })
  const old = postmaster(dir)
  // A smart shutdown: it lasts as long as the first gateway is connected.
  process.kill(old, 'SIGTERM')
  await eventually(() => readFileSync(path.join(dir, 'pgdata', 'postmaster.pid'), 'utf8').includes('stopping'))
  const starting = startGateway({ DATA_DIR: dir })
  // The second has the lock, and waits for the server.
  await eventually(() => readdirSync(dir).includes('starting.pid'), 30_000)
  first.kill('SIGKILL')
  const second = await starting
  expect(postmaster(dir)).not.toBe(old)
  expect((await http(second, 'PUT', '/v1/queues/q')).status).toBe(201)
  await end(dir, second)
}, 120_000)

/** A small file system in memory, where this account may make one. */
function smallDisk(): string | null {
  const dir = folder()
  const words = ['-t', 'tmpfs', '-o', 'size=300m,mode=755', 'postern-test', dir]
  if (process.platform === 'linux' && spawnSync('mount', words).status === 0) return dir
  rmSync(dir, { recursive: true })
  return null
}

test('a server that dies while the disk is full comes back when there is room', async (context) => {
  const dir = smallDisk()
  if (dir === null) return context.skip('no file system can be mounted here')
  context.onTestFinished(() => {
    spawnSync('umount', ['-l', dir])
    rmSync(dir, { recursive: true })
  })
  const events: string[] = []
  const server = await startEmbedded({ dir, log: (event) => events.push(event) })
  const filler = path.join(dir, 'filler')
  spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=1M', 'count=400'], { stdio: 'ignore' })
  process.kill(server.pid(), 'SIGKILL')
  await eventually(() => events.includes('embedded postgres does not start'))
  rmSync(filler)
  await eventually(() => events.includes('embedded postgres is back'), 30_000)
  await server.stop()
  expect(readdirSync(dir).filter((name) => name.startsWith('starting.pid'))).toEqual([])
}, 120_000)
