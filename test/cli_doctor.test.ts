/** `postern doctor` and `postern explain`, as processes. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Ended, postern } from './support/cli.ts'
import { type Gateway, http, startGateway } from './support/gateway.ts'
import { type TestDatabase, testDatabase } from './support/postgres.ts'

let database: TestDatabase
let gateway: Gateway

beforeAll(async () => {
  database = await testDatabase()
  gateway = await startGateway({ DATABASE_URL: database.url })
})
afterAll(async () => {
  gateway?.kill('SIGTERM')
  await gateway?.exited
  await database?.drop()
})

const run = (words: string[], environment: Record<string, string> = {}): Promise<Ended> =>
  postern(words, { POSTERN_URL: gateway.url, ...environment })
type Found = { reached: boolean; ready: boolean; problems: { code: string; advice: string }[] }
/** Other tests take connections of the same Postgres. */
const codesOf = ({ stdout }: Ended) =>
  (JSON.parse(stdout) as Found).problems.map(({ code }) => code).filter((code) => code !== 'connections_exhausted')

describe('doctor', () => {
  test('prints each problem with advice, and exits with 1', async () => {
    // The Postgres of the tests does not sync to disk.
    const { code, stdout, stderr } = await run(['doctor'])
    expect(code).toBe(1)
    expect(stdout).toMatch(
      /^The gateway \(\S+\) is ready\.\n\nnot_durable\n {2}fsync is off\.\n {2}→ Turn the setting on: /,
    )
    expect(stderr).toBe('postern: 3 problems\n')
  })

  test('exits with 0 when nothing is wrong', async () => {
    const { createServer } = await import('node:http')
    const server = createServer((_request, response) => {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ status: 'ready', version: '0.1.0', problems: [] }))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    expect(await run(['doctor', '--url', `http://127.0.0.1:${port}`])).toMatchObject({
      ...{ code: 0, stdout: 'The gateway (0.1.0) is ready.\nNothing is wrong.\n' },
    })
    server.close()
  })

  test('a gateway that is not ready says why', async () => {
    const rows =
      await database.sql`delete from postern.migrations where tag = (select min(tag) from postern.migrations) returning *`
    const ended = await run(['--json', 'doctor'])
    await database.sql`insert into postern.migrations ${database.sql(rows)}`
    expect([ended.code, codesOf(ended)]).toEqual([1, ['migrations_missing']])
    expect(JSON.parse(ended.stdout)).toMatchObject({ reached: true, ready: false })
  })

  test('without a gateway it asks the database itself, and looks at the settings', async () => {
    const nowhere = { POSTERN_URL: 'http://127.0.0.1:9' }
    const alone = await run(['--json', 'doctor'], nowhere)
    expect([alone.code, codesOf(alone)]).toEqual([1, ['gateway_unreachable']])
    const asked = await run(['--json', 'doctor'], { ...nowhere, DATABASE_URL: database.url, PORT: 'x' })
    expect(codesOf(asked)).toEqual([
      'configuration',
      'gateway_unreachable',
      'not_durable',
      'not_durable',
      'not_durable',
    ])
    const away = await run(['--json', 'doctor'], { ...nowhere, DATABASE_URL: 'postgres://127.0.0.1:9/none' })
    expect(codesOf(away)).toEqual(['gateway_unreachable', 'database_unreachable'])
  }, 30_000)

  test('a key that is wrong or missing is a problem of its own', async () => {
    const closed = await startGateway({ DATABASE_URL: database.url, POSTERN_ROOT_KEY: 'a-key-of-this-test' })
    const url = { POSTERN_URL: closed.url }
    expect(codesOf(await run(['--json', 'doctor'], url))).toEqual(['key_missing'])
    expect(codesOf(await run(['--json', 'doctor'], { ...url, POSTERN_KEY: 'wrong' }))).toEqual(['key_refused'])
    closed.kill('SIGTERM')
    await closed.exited
  }, 30_000)
})

test('explain prints the reasons and the timeline', async () => {
  await http(gateway, 'PUT', '/v1/queues/slow')
  const sent = await http(gateway, 'POST', '/v1/queues/slow/messages?delay=1h', 'x')
  const { id } = (await sent.json()) as { id: string }
  const { code, stdout } = await run(['explain', 'slow', id])
  expect(code).toBe(0)
  expect(stdout).toMatch(new RegExp(`^${id}: delayed, 0 of 10 attempts\n {2}delayed: It is delayed until `))
  expect(stdout).toMatch(/^\S+Z +sent +Sent\.$/m)
  expect(stdout).toMatch(/^\S+Z +\(due\) +Becomes ready\.$/m)
  expect((await run(['explain', 'slow', 'msg_zzzzzzzzzzz'])).code).toBe(1)
})
