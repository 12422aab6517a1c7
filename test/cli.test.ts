/** The commands for topics, subscriptions and listening, as processes against a gateway. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Gateway, http, startGateway } from './support/gateway.ts'
import { eventually, type TestDatabase, testDatabase } from './support/postgres.ts'
import { type Sink, startSink, status } from './support/sink.ts'

type Fields = Record<string, unknown>
type Command = {
  child: ChildProcess
  stdout(): string
  stderr(): string
  /** One JSON object a line. */
  said(): Fields[]
  exited: Promise<number | null>
}

const root = new URL('../', import.meta.url).pathname
let database: TestDatabase
let gateway: Gateway
const sinks: Sink[] = []
const commands: Command[] = []

beforeAll(async () => {
  database = await testDatabase()
  gateway = await startGateway({ DATABASE_URL: database.url, ALLOW_PRIVATE_WEBHOOKS: 'true' })
})

afterAll(async () => {
  for (const { child } of commands) child.kill('SIGKILL')
  gateway?.kill('SIGTERM')
  await gateway?.exited
  await Promise.all(sinks.map((sink) => sink.close()))
  await database?.drop()
})

function start(...words: string[]): Command {
  const child = spawn(process.execPath, ['--import', 'tsx', 'src/cli.ts', '--url', gateway.url, ...words], {
    cwd: root,
    env: { PATH: process.env.PATH ?? '' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const text = { stdout: '', stderr: '' }
  child.stdout?.on('data', (part) => (text.stdout += part))
  child.stderr?.on('data', (part) => (text.stderr += part))
  const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
  const command: Command = {
    child,
    stdout: () => text.stdout,
    stderr: () => text.stderr,
    said: () => {
      const lines = text.stdout.split('\n').filter((line) => line !== '')
      return lines.map((line) => JSON.parse(line) as Fields)
    },
    exited,
  }
  commands.push(command)
  return command
}

/** What it prints for people. */
async function run(...words: string[]): Promise<string> {
  const command = start(...words)
  expect(await command.exited, command.stderr()).toBe(0)
  return command.stdout()
}

/** What it prints for programs. */
async function runJson(...words: string[]): Promise<Fields> {
  return JSON.parse(await run('--json', ...words)) as Fields
}

async function api<T = Fields>(method: string, path: string, body?: unknown): Promise<T> {
  const answer = await http(gateway, method, path, body === undefined ? undefined : JSON.stringify(body))
  expect(answer.status, `${method} ${path}`).toBeLessThan(300)
  return (answer.status === 204 ? {} : await answer.json()) as T
}

async function sinkOf(answer?: Sink['answer']): Promise<Sink> {
  const sink = await startSink(answer)
  sinks.push(sink)
  return sink
}

/** Where nobody listens. */
async function closedUrl(): Promise<string> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}/hook`
}

const counts = async (queue: string) => (await api<{ counts: Fields }>('GET', `/v1/queues/${queue}`)).counts

describe('topics', () => {
  test('a topic is made, bound, tried, published to, looked at, unbound and deleted', async () => {
    await api('PUT', '/v1/queues/mail')
    expect(await run('topics', 'put', 'shop', 'retention=2h')).toBe('shop: created\n')
    const bound = await runJson(
      ...['topics', 'bind', 'shop', 'mail', '--pattern', 'orders.#', '--filter', '{"body":{"total":[5]}}'],
    )
    expect(bound).toMatchObject({ name: 'mail', queue: 'mail', pattern: 'orders.#', filter: { body: { total: [5] } } })

    const [tried, bindings, list, show, published] = await Promise.all([
      run('topics', 'test', 'shop', '{"total":5}', '--routing-key', 'orders.eu'),
      run('topics', 'bindings', 'shop'),
      run('topics'),
      run('topics', 'show', 'shop'),
      runJson('topics', 'publish', 'shop', '{"total":5}', '--routing-key', 'orders.eu', '--header', 'a=b'),
    ])
    expect(tried).toMatch(/^binding +mail +mail$/m)
    expect(bindings).toMatch(/^mail +mail +orders\.# +\{"body":\{"total":\[5\]\}\}$/m)
    expect(list).toMatch(/^shop +2h +5m +1 +0$/m)
    expect(show).toMatch(/^retention +2h$/m)
    expect(published).toMatchObject({ matched: 1 })
    const { messages } = await api<{ messages: Fields[] }>('POST', '/v1/queues/mail/receive')
    expect(messages).toMatchObject([
      {
        id: published.id,
        body: '{"total":5}',
        content_type: 'application/json',
        headers: { a: 'b', 'postern-routing-key': 'orders.eu' },
      },
    ])

    expect(await run('topics', 'unbind', 'shop', 'mail')).toBe('shop: mail is unbound\n')
    expect(await run('topics', 'delete', 'shop')).toBe('shop: deleted\n')
    expect((await http(gateway, 'GET', '/v1/topics/shop')).status).toBe(404)
  }, 60_000)

  test('wrong usage and what the gateway refuses have exit codes of their own', async () => {
    const wrong = [
      start('topics', 'bind', 'none', 'none', '--filter', '{'),
      start('subscriptions', 'create', '--endpoint', 'http://127.0.0.1/'),
      start('subscriptions', 'update', 'sub_none', '--concurrency', 'many'),
      start('listen', '--forward', 'http://127.0.0.1/', '--topic', 'a', '--queue', 'b'),
      start('listen', '--forward', 'ftp://127.0.0.1/', '--topic', 'a'),
    ]
    expect(await Promise.all(wrong.map((each) => each.exited))).toEqual([2, 2, 2, 2, 2])
    const refused = start('topics', 'show', 'none')
    expect(await refused.exited).toBe(1)
    expect(refused.stderr()).toContain('404 topic_not_found')
  })
})

describe('schedules', () => {
  test('one is put, listed, shown, run, paused, resumed and deleted', async () => {
    await api('PUT', '/v1/queues/nightly')
    const words = ['--cron', '0 3 * * *', '--timezone', 'Europe/Berlin', '--queue', 'nightly', '--header', 'a=b']
    expect(await run('schedules', 'put', 'night', '{"job":1}', ...words, '--priority', '7')).toMatch(
      /^night: created, fires at 20\S+Z$/m,
    )
    expect(await api('GET', '/v1/schedules/night')).toMatchObject({
      ...{ body: '{"job":1}', content_type: 'application/json', headers: { a: 'b' }, priority: 7, queue: 'nightly' },
    })
    const [list, show, id] = await Promise.all([
      run('schedules'),
      run('schedules', 'show', 'night'),
      run('schedules', 'run', 'night'),
    ])
    expect(list).toMatch(/^night +0 3 \* \* \* +Europe\/Berlin +nightly +20/m)
    expect(show).toMatch(/^timezone +Europe\/Berlin$/m)
    expect(await api('POST', '/v1/queues/nightly/receive')).toMatchObject({ messages: [{ id: id.trim() }] })
    expect(await run('schedules', 'pause', 'night')).toBe('night: paused\n')
    expect(await run('schedules', 'put', 'night', '{}', ...words)).toBe('night: replaced, paused\n')
    expect(await run('schedules', 'resume', 'night')).toMatch(/^night: fires at 20\S+Z$/m)
    expect(await run('schedules', 'delete', 'night')).toBe('night: deleted\n')
    expect((await http(gateway, 'GET', '/v1/schedules/night')).status).toBe(404)
    const wrong = [
      start('schedules', 'put', 'night', '--queue', 'nightly'),
      start('schedules', 'put', 'night', ...words, '--priority', 'high'),
      start('schedules', 'put', 'night', ...words, 'x', '--file', 'y'),
    ]
    expect(await Promise.all(wrong.map((each) => each.exited))).toEqual([2, 2, 2])
  }, 60_000)
})

describe('subscriptions', () => {
  test('one is created, shown, changed, tried, given another secret, and deleted', async () => {
    await api('PUT', '/v1/topics/users')
    const sink = await sinkOf()
    const created = await run(
      ...['subscriptions', 'create', '--topic', 'users', '--endpoint', sink.url, '--pattern', 'user.*'],
      ...['--name', 'crm', '--header', 'x-a=1', '--header', 'x-b=2=3', '--timeout', '10s', '--concurrency', '3'],
      ...['--rate', '50/s', '--retry-schedule', '1s,2m', '--max-attempts', '7', '--format', 'envelope'],
    )
    const [id = '', secret = ''] = created.trim().split('\n')
    expect(await api('GET', `/v1/subscriptions/${id}`)).toMatchObject({
      ...{ topic: 'users', pattern: 'user.*', url: sink.url, name: 'crm', headers: { 'x-a': '1', 'x-b': '2=3' } },
      ...{ timeout: '10s', concurrency: 3, rate: '50/s', retry: { schedule: ['1s', '2m'] }, max_attempts: 7 },
      format: 'envelope',
    })

    expect(await run('subscriptions', 'test', id)).toMatch(/^succeeded in \d+ ms: 200$/m)
    new Webhook(secret).verify(sink.bodies()[0] ?? '', sink.hits[0]?.headers ?? {})
    const changed = await runJson('subscriptions', 'update', id, '--rate', 'null', '--name', 'crm2')
    expect(changed).toMatchObject({ rate: null, name: 'crm2', timeout: '10s' })

    const [list, show, attempts, shown, replayed] = await Promise.all([
      run('subscriptions', '--topic', 'users'),
      run('subscriptions', 'show', id),
      run('subscriptions', 'attempts', id, '--status', 'succeeded', '--limit', '1'),
      run('subscriptions', 'secret', id),
      runJson('subscriptions', 'replay', id, '--state', 'past', '--from', '2020-01-01T00:00:00Z'),
    ])
    expect(list).toMatch(new RegExp(`^${id} +crm2 +topic users +${sink.url} +enabled +closed +0 +0 +0 +0$`, 'm'))
    expect(show).toMatch(/^retry +\{"schedule":\["1s","2m"\]\}$/m)
    expect(attempts).toMatch(/ msg_test_\S+ +1 +succeeded +200 +\d+ +- +-$/m)
    expect(shown).toBe(`${secret}\n`)
    expect(replayed).toEqual({ replayed: 0 })

    const rotated = (await run('subscriptions', 'rotate-secret', id, '--grace', '1h')).trim()
    expect(await api('GET', `/v1/subscriptions/${id}/secret`)).toMatchObject({
      secret: rotated,
      previous: [{ secret }],
    })
    expect(await run('subscriptions', 'disable', id)).toBe(`${id}: disabled\n`)
    expect(await run('subscriptions', 'enable', id)).toBe(`${id}: enabled\n`)
    expect(await run('subscriptions', 'delete', id)).toBe(`${id}: deleted\n`)
    expect((await http(gateway, 'GET', `/v1/subscriptions/${id}`)).status).toBe(404)
  }, 60_000)

  test('a test of an endpoint that fails exits with 1', async () => {
    await api('PUT', '/v1/queues/failing')
    const sink = await sinkOf(status(500))
    const { id } = await api<{ id: string }>('POST', '/v1/subscriptions', { queue: 'failing', url: sink.url })
    const tested = start('subscriptions', 'test', id)
    expect(await tested.exited).toBe(1)
    expect(tested.stdout()).toMatch(/^failed in \d+ ms: The endpoint answered 500\.$/m)
  })
})

describe('listen', () => {
  const listening = (command: Command): Promise<string> =>
    eventually(() => /signed with (whsec_\S+)/.exec(command.stderr())?.[1], 20_000)
  const bindingsOf = async (topic: string): Promise<Fields[]> =>
    (await api<{ data: Fields[] }>('GET', `/v1/topics/${topic}/bindings`)).data
  const publish = (topic: string, key: string, body: unknown) =>
    api<{ id: string; matched: number }>('POST', `/v1/topics/${topic}/messages?routing_key=${key}`, body)

  test('what matches of a topic arrives signed like a webhook, again after a refusal, and nothing is left behind', async () => {
    await api('PUT', '/v1/topics/events')
    const sink = await sinkOf((hit, response) => {
      const refuse = hit.headers['postern-attempt'] === '1' && hit.body.toString() === '"two"'
      response.writeHead(refuse ? 503 : 204, refuse ? { 'retry-after': '1' } : {}).end()
    })
    const command = start('--json', 'listen', '--forward', sink.url, '--topic', 'events', '--pattern', 'user.*')
    const secret = await listening(command)
    const queue = String((await bindingsOf('events'))[0]?.queue)
    expect(queue).toMatch(/^listen-/)
    expect(await api('GET', `/v1/queues/${queue}`)).toMatchObject({ ttl: '1h' })

    const one = await publish('events', 'user.created', 'one')
    await publish('events', 'order.created', 'not wanted')
    await eventually(() => sink.hits.length >= 1)
    const two = await publish('events', 'user.renamed', 'two')
    await eventually(() => sink.hits.length >= 3)
    expect(sink.bodies()).toEqual(['"one"', '"two"', '"two"'])
    for (const hit of sink.hits) new Webhook(secret).verify(hit.body.toString(), hit.headers)
    expect(sink.hits[0]?.headers).toMatchObject({
      ...{ 'webhook-id': one.id, 'postern-attempt': '1', 'postern-routing-key': 'user.created' },
      'user-agent': expect.stringMatching(/^Postern\//),
    })
    expect(sink.hits[0]?.headers).not.toHaveProperty('sec-fetch-mode')
    expect(sink.hits[2]?.headers).toMatchObject({ 'webhook-id': two.id, 'postern-attempt': '2' })

    await eventually(() => command.said().length >= 3)
    expect(command.said()).toMatchObject([
      { id: one.id, routing_key: 'user.created', attempt: 1, status: 204, error: null },
      { id: two.id, routing_key: 'user.renamed', attempt: 1, status: 503 },
      { id: two.id, attempt: 2, status: 204, duration_ms: expect.any(Number) },
    ])
    command.child.kill('SIGINT')
    expect(await command.exited).toBe(130)
    expect(await bindingsOf('events')).toEqual([])
    expect((await http(gateway, 'GET', `/v1/queues/${queue}`)).status).toBe(404)
  })

  test('an endpoint that is not there is said once; the messages of a queue stay in it', async () => {
    await api('PUT', '/v1/queues/jobs')
    for (const body of ['a', 'b']) await api('POST', '/v1/queues/jobs/messages', body)
    const mine = `whsec_${Buffer.alloc(24, 7).toString('base64')}`
    const command = start(
      ...['--json', 'listen', '--forward', await closedUrl(), '--queue', 'jobs', '--secret', mine],
      ...['--format', 'cloudevents'],
    )
    expect(await listening(command)).toBe(mine)
    await eventually(() => command.said().length >= 2, 20_000)
    expect(command.said()).toMatchObject([
      { status: null, error: 'ECONNREFUSED', routing_key: null },
      { status: null, error: 'ECONNREFUSED' },
    ])
    expect(command.stderr().match(/Could not reach/g)).toHaveLength(1)
    command.child.kill('SIGTERM')
    expect(await command.exited).toBe(130)
    expect(await counts('jobs')).toMatchObject({ ready: 0, delayed: 2, leased: 0, dead: 0 })
  })

  test('an interrupt waits for the delivery under way, which is acknowledged', async () => {
    await api('PUT', '/v1/queues/slow')
    let answer = (): void => {}
    const answered = new Promise<void>((resolve) => {
      answer = resolve
    })
    const sink = await sinkOf(async (_hit, response) => {
      await answered
      response.writeHead(200).end()
    })
    const command = start('listen', '--forward', sink.url, '--queue', 'slow')
    await listening(command)
    const { id } = await api<{ id: string }>('POST', '/v1/queues/slow/messages', 'x')
    await eventually(() => sink.hits.length === 1)
    command.child.kill('SIGINT')
    await eventually(() => command.stderr().includes('Waiting for 1 under way'))
    answer()
    expect(await command.exited).toBe(130)
    expect(command.stdout()).toMatch(new RegExp(`Z  ${id}  -  200  \\d+ ms$`, 'm'))
    expect(await counts('slow')).toEqual({ ready: 0, delayed: 0, leased: 0, dead: 0 })
  })

  test('when its queue is taken away it fails, and still removes its binding', async () => {
    await api('PUT', '/v1/topics/short')
    const command = start('listen', '--forward', await closedUrl(), '--topic', 'short')
    await listening(command)
    await api('DELETE', `/v1/queues/${(await bindingsOf('short'))[0]?.queue}?force=true`)
    expect(await command.exited).toBe(1)
    expect(command.stderr()).toContain('404 queue_not_found')
    expect(await bindingsOf('short')).toEqual([])
  })
})
