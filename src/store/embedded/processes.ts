/** Questions about processes that signals alone do not answer. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import path from 'node:path'

/** Runs, and is no zombie: a container's first process often reaps nothing. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EPERM')) return false
  }
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return process.platform !== 'linux'
  }
}

export type Postmaster = { pid: number; port: number; ready: boolean }

/** The server that works in this data directory: its pid file, unless that is left over or the pid is another's by now. */
export function runningPostmaster(data: string): Postmaster | undefined {
  let lines: string[]
  try {
    lines = readFileSync(path.join(data, 'postmaster.pid'), 'utf8').split('\n')
  } catch {
    return undefined
  }
  const pid = Number(lines[0])
  if (!pid || !isAlive(pid) || !worksIn(pid, data)) return undefined
  return { pid, port: Number(lines[3]), ready: (lines[7] ?? '').trim() === 'ready' }
}

function worksIn(pid: number, data: string): boolean {
  if (process.platform !== 'linux') return true
  try {
    return readlinkSync(`/proc/${pid}/cwd`) === data
  } catch {
    return false
  }
}

/** Whether anything still works in the data directory: orphaned backends leave a moment after their server was killed. */
export function isOccupied(data: string): boolean {
  if (process.platform !== 'linux') return false
  return readdirSync('/proc').some((entry) => /^\d+$/.test(entry) && worksIn(Number(entry), data))
}
