/** Webhooks by whole gateways as processes, killed and stopped in the middle of it. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Gateway, http, startGateway } from './support/gateway.ts'
import { eventually } from './support/postgres.ts'
import { type Sink, slowly, startSink } from './support/sink.ts'

const dir = mkdtempSync(path.join(tmpdir(), 'postern-push-'))
// Root lets an unprivileged account run Postgres, which must be able to enter.
chmodSync(dir, 0o755)
const running: Gateway[] = []
const sinks: Sink[] = []
let a: Gateway

const start = async (): Promise<Gateway> => {
  const gateway = await startGateway({ DATA_DIR: dir, DRAIN: '5s' })
  running.push(gateway)
  return gateway
}

beforeAll(async () => {
  a = await start()
}, 120_000)

afterAll(async () => {
  for (const gateway of running) gateway.kill('SIGTERM')
  await Promise.all(running.map((gateway) => gateway.exited))
  await Promise.all(sinks.map((sink) => sink.close()))
  rmSync(dir, { recursive: true, force: true })
})

async function sinkOf(answer?: Sink['answer']): Promise<Sink> {
  const sink = await startSink(answer)
  sinks.push(sink)
  return sink
}

const json = async (gateway: Gateway, method: string, target: string, body?: unknown) => {
  const answer = await http(gateway, method, target, body === undefined ? undefined : JSON.stringify(body))
  expect(answer.status, `${method} ${target}`).toBeLessThan(300)
  return (answer.status === 204 ? {} : await answer.json()) as Record<string, unknown>
}

const attemptsBy = (gateway: Gateway): number => gateway.output().split('"event":"webhook attempt"').length - 1

test('the example of the first webhook: topic, subscription, publish, a signed delivery', async () => {
  const sink = await sinkOf()
  await json(a, 'PUT', '/v1/topics/events')
  const made = await json(a, 'POST', '/v1/subscriptions', { topic: 'events', pattern: 'user.*', url: sink.url })
  const answer = await http(a, 'POST', '/v1/topics/events/messages?routing_key=user.created', '{"id":7}')
  expect(answer.status).toBe(202)
  const { id } = (await answer.json()) as { id: string }
  const hit = await eventually(() => sink.hits[0])
  expect(hit.headers['webhook-id']).toBe(id)
  new Webhook(String(made.secret)).verify(hit.body.toString(), hit.headers)
  const attempts = await eventually(async () => {
    const { data } = (await json(a, 'GET', `/v1/subscriptions/${made.id}/attempts`)) as { data: unknown[] }
    return data.length > 0 && data
  })
  expect(attempts).toMatchObject([{ message_id: id, outcome: 'succeeded', status: 200 }])
})

test('kill -9 of the gateway that delivers: another goes on within seconds, and nothing is lost', async () => {
  const victim = await start()
  const sink = await sinkOf(slowly(20))
  const queues = ['k0', 'k1', 'k2', 'k3']
  for (const queue of queues) {
    await json(a, 'PUT', `/v1/queues/${queue}`)
    // One second is the shortest timeout: what the victim held comes again a little after.
    await json(a, 'POST', '/v1/subscriptions', { queue, url: sink.url, timeout: '1s', concurrency: 2 })
  }
  const bodies = queues.flatMap((queue) => Array.from({ length: 300 }, (_, n) => `${queue}.${n}`))
  for (const queue of queues) {
    const messages = bodies.filter((body) => body.startsWith(queue)).map((body) => ({ body }))
    await json(a, 'POST', `/v1/queues/${queue}/messages/batch`, { messages })
  }
  await eventually(() => attemptsBy(victim) > 10 && sink.hits.length > 20, 30_000)
  victim.kill('SIGKILL')
  await victim.exited
  await eventually(() => new Set(sink.bodies()).size === bodies.length, 45_000)
  // At most what was under way is delivered twice.
  expect(sink.hits.length).toBeLessThan(bodies.length + 50)
}, 90_000)

test('SIGTERM in the middle of deliveries: they are finished, handed over, and none comes twice', async () => {
  const other = await start()
  const sink = await sinkOf(slowly(50))
  for (let n = 0; n < 4; n++) {
    await json(a, 'PUT', `/v1/queues/t${n}`)
    await json(a, 'POST', '/v1/subscriptions', { queue: `t${n}`, url: sink.url, concurrency: 2 })
  }
  for (let n = 0; n < 4; n++) {
    const messages = Array.from({ length: 200 }, (_, at) => ({ body: `t${n}.${at}` }))
    await json(a, 'POST', `/v1/queues/t${n}/messages/batch`, { messages })
  }
  await eventually(() => attemptsBy(other) > 5, 30_000)
  other.kill('SIGTERM')
  expect(await other.exited).toBe(0)
  await eventually(() => new Set(sink.bodies()).size === 800, 30_000)
  expect(sink.hits).toHaveLength(800)
}, 60_000)
