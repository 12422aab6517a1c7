/** The README is true: its first lines are run as they stand, its tables are the program's. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { settings } from '../src/config.ts'
import { codes } from '../src/model/index.ts'
import { testApp } from './support/app.ts'

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
const run = promisify(execFile)

/** The curl commands of one section, with the port of the app under test. */
function curls(section: string): string[] {
  const text = readme.split(`## ${section}\n`)[1]?.split('\n## ')[0] ?? ''
  return text.split('\n').filter((line) => line.startsWith('curl '))
}

test.each(['The first thirty seconds', 'Sending', 'Receiving and settling', 'Queues'])(
  '%s: every command works as printed',
  async (section) => {
    const app = await testApp()
    const { port } = await app.listen()
    await app.request('/v1/queues/orders', { method: 'PUT' })
    await app.send('orders', ...Array.from({ length: 40 }, (_, n) => `${n}`))
    const commands = curls(section)
    expect(commands.length).toBeGreaterThan(3)
    for (const command of commands) {
      const [message] = command.includes('RECEIPT') ? await app.receive('orders', '?wait=1s') : []
      const line = command.replace('localhost:7070', `127.0.0.1:${port}`).replace('RECEIPT', message?.receipt ?? '')
      const { stdout } = await run('sh', ['-c', line.replace('curl ', "curl -s -w '\\n%{http_code}' ")])
      expect(stdout.split('\n').at(-1), `${line}\n${stdout}`).toMatch(/^2\d\d$/)
    }
    await app.stop()
  },
)

test('the table of settings is that of config.ts', () => {
  for (const { name, default: fallback, about } of settings)
    expect(readme).toContain(`| \`${name}\` | ${fallback} | ${about} |`)
  expect(readme.match(/^\| `[A-Z_]+` \|/gm)).toHaveLength(settings.length)
})

test('every error code is listed', () => {
  for (const code of codes) expect(readme).toContain(`\`${code}\``)
})
