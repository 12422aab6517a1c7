/** Whole gateways as processes, on a Postgres that they bring along, killed in turn. */
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { drain, type Gateway, http, load, receiveFrom, spawnGateway, startGateway } from './support/gateway.ts'
import { eventually } from './support/postgres.ts'

const dir = mkdtempSync(path.join(tmpdir(), 'postern-e2e-'))
// Root lets an unprivileged account run Postgres, which must be able to enter.
chmodSync(dir, 0o755)
let a: Gateway
let b: Gateway

beforeAll(async () => {
  // Both at once on an empty folder.
  ;[a, b] = await Promise.all([startGateway({ DATA_DIR: dir }), startGateway({ DATA_DIR: dir })])
}, 120_000)

afterAll(async () => {
  for (const gateway of [a, b]) gateway?.kill('SIGTERM')
  await Promise.all([a?.exited, b?.exited])
  rmSync(dir, { recursive: true, force: true })
})

const postmaster = (): number => Number(readFileSync(path.join(dir, 'pgdata', 'postmaster.pid'), 'utf8').split('\n')[0])
const queue = async (name: string, settings = {}): Promise<string> => {
  expect((await http(a, 'PUT', `/v1/queues/${name}`, JSON.stringify(settings))).status).toBe(201)
  return name
}

test('the first thirty seconds work as printed, across two gateways', async () => {
  await eventually(() => a.output().includes('curl -X PUT'))
  expect((await http(a, 'PUT', '/v1/queues/orders')).status).toBe(201)
  const waiting = receiveFrom(b, 'orders', 'wait=20s')
  expect((await http(a, 'POST', '/v1/queues/orders/messages', '{"id":1}')).status).toBe(201)
  const [message] = await waiting
  expect(message?.body).toBe('{"id":1}')
  expect((await http(b, 'DELETE', `/v1/leases/${message?.receipt}`)).status).toBe(204)
})

test('kill -9 of a gateway under load: every acknowledged send is delivered', async () => {
  const q = await queue('gateway-dies', { lease: '2s' })
  const victim = await startGateway({ DATA_DIR: dir })
  let over = false
  // It also holds leases when it dies.
  const holding = receiveFrom(victim, q, 'max=50&wait=20s').catch(() => [])
  const loading = load([victim, a], q, 20, () => over)
  await holding
  await eventually(
    async () => ((await (await http(a, 'GET', `/v1/queues/${q}/stats`)).json()) as { ready: number }).ready > 500,
  )
  victim.kill('SIGKILL')
  expect(await victim.exited).toBe('SIGKILL')
  over = true
  const { acknowledged } = await loading
  expect(acknowledged.size).toBeGreaterThan(500)
  const got = await drain(b, q, (bodies) => [...acknowledged].every((body) => bodies.has(body)))
  expect(got.size).toBeGreaterThanOrEqual(acknowledged.size)
})

test('kill -9 of Postgres under load: 503 and then recovery by itself, nothing acknowledged is lost, no request hangs', async () => {
  const q = await queue('postgres-dies', { lease: '2s' })
  let over = false
  const loading = load([a, b], q, 20, () => over)
  const ready = async () =>
    ((await (await http(a, 'GET', `/v1/queues/${q}/stats`)).json()) as { ready?: number }).ready ?? 0
  for (let round = 0; round < 2; round++) {
    const before = await eventually(ready)
    const old = postmaster()
    process.kill(old, 'SIGKILL')
    await eventually(() => {
      try {
        return postmaster() !== old
      } catch {
        return false
      }
    }, 30_000)
    await eventually(async () => (await ready()) > before, 30_000)
  }
  over = true
  const { acknowledged, statuses } = await loading
  expect([...statuses].filter((status) => status !== 201 && status !== 503)).toEqual([])
  const got = await drain(b, q, (bodies) => [...acknowledged].every((body) => bodies.has(body)))
  expect(got.size).toBeGreaterThanOrEqual(acknowledged.size)
  expect((await http(a, 'GET', '/readyz')).status).toBe(200)
}, 120_000)

test('SIGTERM answers a waiting poll and exits 0; the others go on', async () => {
  const q = await queue('leaving')
  const leaving = await startGateway({ DATA_DIR: dir })
  const waiting = receiveFrom(leaving, q, 'wait=50s')
  await eventually(async () => (await http(leaving, 'GET', '/healthz')).ok)
  leaving.kill('SIGTERM')
  expect(await waiting).toEqual([])
  expect(await leaving.exited).toBe(0)
  expect((await http(a, 'GET', '/readyz')).status).toBe(200)
})

test('a gateway whose clock is ten minutes ahead delivers nothing early', async () => {
  const q = await queue('clock')
  const fast = await startGateway({ DATA_DIR: dir }, [
    '--import',
    'data:text/javascript,const now=Date.now;Date.now=()=>now()+600000',
  ])
  expect((await http(fast, 'POST', `/v1/queues/${q}/messages?delay=2s`, 'x')).status).toBe(201)
  const sentMs = performance.now()
  expect(await receiveFrom(fast, q, '')).toEqual([])
  expect(await receiveFrom(a, q, 'wait=20s')).toHaveLength(1)
  expect(performance.now() - sentMs).toBeGreaterThan(1900)
  fast.kill('SIGTERM')
  expect(await fast.exited).toBe(0)
})

test('a public address without a key is refused, with every other mistake in one go', async () => {
  const { exited, output } = spawnGateway({ HOST: '0.0.0.0', DATABASE_POOL: 'many', MAX_WAIT: 'long' })
  expect(await exited).toBe(78)
  for (const name of ['HOST', 'POSTERN_ROOT_KEY', 'DATABASE_POOL', 'MAX_WAIT']) expect(output()).toContain(name)
})

test('a taken port is named', async () => {
  const { exited, output } = spawnGateway({ DATA_DIR: dir, PORT: new URL(a.url).port })
  expect(await exited).toBe(1)
  expect(output()).toContain('is in use')
})
