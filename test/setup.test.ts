/** What `npm start` and `npm test` do before anything else: install, and compile what has changed; a gateway never finds half of it. */
import { execFile, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'

const root = new URL('../', import.meta.url).pathname
const script = path.join(root, 'scripts', 'setup.mjs')
let clone: string

beforeEach(() => {
  clone = mkdtempSync(path.join(tmpdir(), 'postern-setup-'))
  for (const name of ['package.json', 'package-lock.json', 'tsconfig.json', 'tsconfig.build.json', 'scripts'])
    cpSync(path.join(root, name), path.join(clone, name), { recursive: true })
  symlinkSync(path.join(root, 'node_modules'), path.join(clone, 'node_modules'))
  mkdirSync(path.join(clone, 'src', 'deep'), { recursive: true })
  writeFileSync(
    path.join(clone, 'src', 'main.ts'),
    `import { said } from './deep/said.ts'\nconsole.log(said satisfies string)\n`,
  )
  say('one')
})
afterEach(() => rmSync(clone, { recursive: true, force: true }))

const say = (word: string) =>
  writeFileSync(path.join(clone, 'src', 'deep', 'said.ts'), `export const said: string = '${word}'\n`)
const node = async (...words: string[]) => (await promisify(execFile)(process.execPath, words, { cwd: clone })).stdout
const setUp = () => node('scripts/setup.mjs')

test('what has changed is compiled, and nothing is when nothing has', async () => {
  await setUp()
  expect(await node('dist/main.js')).toBe('one\n')
  const made = statSync(path.join(clone, 'dist', 'main.js')).mtimeMs
  await setUp()
  expect(statSync(path.join(clone, 'dist', 'main.js')).mtimeMs).toBe(made)
  say('two')
  await setUp()
  expect(await node('dist/main.js')).toBe('two\n')
})

test('of several at once one compiles, and each then finds all of it', async () => {
  const started = Array.from({ length: 4 }, async () => {
    await setUp()
    return await node('dist/main.js')
  })
  expect(await Promise.all(started)).toEqual(Array.from({ length: 4 }, () => 'one\n'))
  for (const left of ['dist.new', 'dist.old', '.setup.pid']) expect(existsSync(path.join(clone, left))).toBe(false)
})

test('whoever died while compiling keeps nobody waiting', async () => {
  const { pid } = spawnSync(process.execPath, ['-e', ''])
  writeFileSync(path.join(clone, '.setup.pid'), String(pid))
  mkdirSync(path.join(clone, 'dist.new'))
  writeFileSync(path.join(clone, 'dist.new', 'main.js'), 'half')
  await setUp()
  expect(await node('dist/main.js')).toBe('one\n')
})

test('what cannot be compiled ends the start, and leaves what was there', async () => {
  await setUp()
  writeFileSync(path.join(clone, 'src', 'main.ts'), 'console.log(')
  await expect(setUp()).rejects.toMatchObject({ code: 1 })
  expect(readFileSync(path.join(clone, 'dist', 'main.js'), 'utf8')).toContain('said')
  expect(existsSync(path.join(clone, '.setup.pid'))).toBe(false)
})

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

test.each(['package-lock.json', 'scripts/patch-postgres.mjs'])(
  'what was installed before %s changed is installed anew, and only then',
  (changed) => {
    const mine = mkdtempSync(path.join(tmpdir(), 'postern-setup-'))
    try {
      for (const folder of ['scripts', 'node_modules']) mkdirSync(path.join(mine, folder))
      // With nothing in it npm refuses before it has removed anything, and says so by its exit code.
      for (const file of ['package-lock.json', 'scripts/patch-postgres.mjs', 'node_modules/.package-lock.json'])
        writeFileSync(path.join(mine, file), '{}')
      const setUpMine = () => spawnSync(process.execPath, [script], { cwd: mine, encoding: 'utf8' })
      expect(setUpMine()).toMatchObject({ status: 0, stdout: '' })
      const later = Date.now() / 1000 + 10
      utimesSync(path.join(mine, changed), later, later)
      expect(setUpMine()).toMatchObject({ status: 1, stdout: expect.stringContaining('Installing') })
    } finally {
      rmSync(mine, { recursive: true, force: true })
    }
  },
)
