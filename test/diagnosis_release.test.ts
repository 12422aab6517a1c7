/** Another release is put in the place of one that runs: the running gateway stays what it is. */
import { afterEach, expect, test, vi } from 'vitest'
import { rootKey, type TestApp, testApp } from './support/app.ts'

const disk = vi.hoisted(() => ({ journal: null as string | null }))
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>()
  const readFile = async (...asked: Parameters<typeof real.readFile>) => {
    if (disk.journal !== null && `${asked[0]}`.endsWith('_journal.json')) {
      if (disk.journal === '') throw new Error('ENOENT')
      return disk.journal
    }
    return await real.readFile(...asked)
  }
  return { ...real, readFile }
})

let app: TestApp
afterEach(async () => {
  disk.journal = null
  await app.stop()
})

test.each([
  ['a newer release lies there', JSON.stringify({ entries: [{ tag: '9999_next', when: 1 }] })],
  ['nothing lies there any more', ''],
])('ready all the same: %s', async (_, journal) => {
  app = await testApp({ rootKey, open: false })
  const asRoot = { headers: { authorization: `Bearer ${rootKey}` } }
  expect((await app.request('/readyz', asRoot)).status).toBe(200)
  disk.journal = journal
  const answer = await app.request('/readyz?verbose', asRoot)
  expect([answer.status, await answer.text()]).toEqual([200, expect.not.stringContaining('migrations_missing')])
})
