/** The README is true: its first lines are run as they stand, its tables are the program's. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { Webhook } from 'standardwebhooks'
import { expect, test } from 'vitest'
import { settings } from '../src/config.ts'
import { codes, everyLetter } from '../src/model/index.ts'
import { createPush, type Push } from '../src/push/index.ts'
import { testApp } from './support/app.ts'

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
const run = promisify(execFile)

const wholeQueue = { to: null, filter: everyLetter, limit: null, rate: null, dryRun: false }

/** The curl commands of one section, with the port of the app under test. */
function curls(section: string): string[] {
  const text = readme.split(`## ${section}\n`)[1]?.split('\n## ')[0] ?? ''
  return text.split('\n').filter((line) => line.startsWith('curl '))
}

test.each([
  'The first thirty seconds',
  'Sending',
  'Receiving and settling',
  'Queues',
  'Where is my message?',
  'Dead letters',
  'Topics',
  'Schedules',
  'Webhooks',
])('%s: every command works as printed', async (section) => {
  let push: Push | undefined
  const app = await testApp({ testWebhook: (id) => push?.test(id) ?? Promise.reject(new Error('no push')) })
  push = createPush({ broker: app.broker, allowPrivate: true, version: 'test', log: () => {} })
  const { port } = await app.listen()
  await app.request('/v1/queues/orders', { method: 'PUT' })
  await app.send('orders', ...Array.from({ length: 40 }, (_, n) => `${n}`))
  await app.request('/v1/topics/events', { method: 'PUT' })
  const url = 'http://localhost:9/hook'
  const made = await app.request('/v1/subscriptions', { method: 'POST', json: { topic: 'events', url } })
  const { id: subscription } = (await made.json()) as { id: string }
  const commands = curls(section)
  expect(commands.length).toBeGreaterThan(section === 'Where is my message?' ? 0 : 3)
  for (const command of commands) {
    const [message] = command.includes('RECEIPT') ? await app.receive('orders', '?wait=1s') : []
    const [id = ''] = command.includes('MESSAGE') ? await app.send('orders', 'x') : []
    const task = command.includes('TASK') ? await app.broker.admin.redrive('orders', wholeQueue, () => true) : null
    const line = command
      .replace('localhost:7070', `127.0.0.1:${port}`)
      .replace('RECEIPT', message?.receipt ?? '')
      .replace('SUBSCRIPTION', subscription)
      .replace('MESSAGE', id)
      .replace('TASK', task?.id ?? '')
    const { stdout } = await run('sh', ['-c', line.replace('curl ', "curl -s -w '\\n%{http_code}' ")])
    expect(stdout.split('\n').at(-1), `${line}\n${stdout}`).toMatch(/^2\d\d$/)
  }
  await push.stop(0)
  await app.stop()
})

test('the webhook as received is verified by the lines beside it, and by the official library', async () => {
  const block = (language: string) => readme.split(`\`\`\`${language}\n`)[1]?.split('\n```')[0] ?? ''
  const [head = '', body = ''] = block('http').split('\n\n')
  const headers = Object.fromEntries(
    head
      .split('\n')
      .slice(1)
      .map((line) => line.split(': ') as [string, string]),
  )
  const secret = /`(whsec_[^`]+)`/.exec(readme)?.[1] ?? ''
  const code = `data:text/javascript,${encodeURIComponent(block('js'))}`
  const { verify } = (await import(/* @vite-ignore */ code)) as {
    verify(secret: string, headers: Record<string, string>, body: Buffer): boolean
  }
  expect(verify(secret, headers, Buffer.from(body))).toBe(true)
  expect(verify(secret, headers, Buffer.from(`${body} `))).toBe(false)
  const timestamp = new Date(Number(headers['webhook-timestamp']) * 1000)
  expect(new Webhook(secret).sign(headers['webhook-id'] ?? '', timestamp, body)).toBe(headers['webhook-signature'])
})

test('the table of settings is that of config.ts', () => {
  for (const { name, default: fallback, about } of settings)
    expect(readme).toContain(`| \`${name}\` | ${fallback} | ${about} |`)
  expect(readme.match(/^\| `[A-Z_]+` \|/gm)).toHaveLength(settings.length)
})

test('every error code is listed', () => {
  for (const code of codes) expect(readme).toContain(`\`${code}\``)
})
