/** The commands for dead letters, as processes against a gateway. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Ended, postern } from './support/cli.ts'
import { type Gateway, http, receiveFrom, startGateway } from './support/gateway.ts'
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

const run = (...words: string[]): Promise<Ended> => postern(['--url', gateway.url, ...words], {})

async function bury(queue: string, ...bodies: string[]): Promise<void> {
  await http(gateway, 'PUT', `/v1/queues/${queue}`)
  for (const body of bodies) await http(gateway, 'POST', `/v1/queues/${queue}/messages`, body)
  for (const { receipt } of await receiveFrom(gateway, queue, 'max=100'))
    await http(gateway, 'POST', `/v1/leases/${receipt}/reject`)
}
const ready = async (queue: string) =>
  ((await (await http(gateway, 'GET', `/v1/queues/${queue}`)).json()) as { counts: { ready: number } }).counts.ready

test('dead letters are counted, redriven and waited for', async () => {
  await bury('work', '{"n":1}', '{"n":2}', '{"n":3}')
  await http(gateway, 'PUT', '/v1/queues/parking')
  const filter = ['--filter', '{"body":{"n":[{"numeric":[">",1]}]}}']
  const counted = await run('redrive', 'work', ...filter, '--dry-run', '--wait')
  expect(counted).toMatchObject({ code: 0, stdout: expect.stringMatching(/^task_\w+: done, 2 of 3 match\n$/) })
  const moved = await run('redrive', 'work', ...filter, '--to', 'parking', '--limit', '1', '--rate', '100/s', '--wait')
  expect(moved.stdout).toMatch(/^task_\w+: done, 1 moved, 0 skipped, of 2 looked at\n$/)
  expect(await ready('parking')).toBe(1)
  const json = await run('--json', 'redrive', 'work', '--wait')
  expect(JSON.parse(json.stdout)).toMatchObject({ state: 'done', moved: 2 })
}, 60_000)

test('a task is shown and cancelled', async () => {
  await bury('slow', 'a', 'b')
  const begun = await run('redrive', 'slow', '--rate', '1/h')
  const id = begun.stdout.trim()
  expect(begun.stderr).toContain(`postern tasks show ${id}`)
  expect((await run('tasks', 'show', id)).stdout).toMatch(/^state +running$/m)
  expect((await run('tasks', 'list', '--queue', 'slow')).stdout).toMatch(new RegExp(`^${id} +slow +running +0 `, 'm'))
  expect((await run('tasks', '--queue', 'work')).stdout).not.toContain(id)
  expect((await run('tasks', 'cancel', id)).stdout).toMatch(/^task_\w+: cancelled, 0 moved, /)
  const gone = await run('tasks', 'show', 'task_0')
  expect([gone.code, gone.stderr]).toEqual([1, expect.stringContaining('404 task_not_found')])
}, 60_000)

test('a task that fails, and wrong usage, have exit codes of their own', async () => {
  await bury('failing', 'a', 'b')
  await http(gateway, 'PUT', '/v1/queues/brief')
  const waiting = run('redrive', 'failing', '--to', 'brief', '--rate', '1/m', '--wait')
  const wrong = await Promise.all([run('redrive', 'x', '--filter', '{'), run('redrive', 'x', '--limit', 'many')])
  expect(wrong.map((each) => each.code)).toEqual([2, 2])
  await http(gateway, 'DELETE', '/v1/queues/brief?force=true')
  const failed = await waiting
  expect(failed.code).toBe(1)
  // Either before it began or in the middle.
  expect(failed.stdout + failed.stderr).toMatch(/The queue brief is gone|there is no queue brief/)
}, 60_000)
