/** What `npm start` and `npm test` do before anything else. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'

const script = new URL('../scripts/setup.mjs', import.meta.url).pathname

test('packages that belong to another checkout are not installed anew, however old they are', () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'postern-setup-'))
  try {
    const theirs = path.join(dir, 'theirs')
    const mine = path.join(dir, 'mine')
    for (const folder of [theirs, mine]) mkdirSync(folder)
    for (const file of ['.package-lock.json', 'kept']) writeFileSync(path.join(theirs, file), '{}')
    utimesSync(path.join(theirs, '.package-lock.json'), 0, 0)
    // With nothing in it npm refuses before it has removed anything, and says so by its exit code.
    writeFileSync(path.join(mine, 'package-lock.json'), '{}')
    symlinkSync(theirs, path.join(mine, 'node_modules'))
    const { status, stdout } = spawnSync(process.execPath, [script], { cwd: mine, encoding: 'utf8' })
    expect([status, stdout]).toEqual([0, ''])
    expect(readdirSync(theirs).sort()).toEqual(['.package-lock.json', 'kept'])
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})
