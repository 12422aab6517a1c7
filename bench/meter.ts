/**
 * What a stretch of work costs: CPU seconds of this process and of those that ask for it, of the processes that serve, and of Postgres with
 * all its helpers, apart; bytes of WAL; transactions that wrote. CPU is read from /proc, so on Linux only; elsewhere it is null.
 */
import { readdirSync, readFileSync } from 'node:fs'
import type { Sql } from 'postgres'

/** Seconds of CPU, bytes of WAL, and write transactions since some beginning. */
export type Reading = {
  ownS: number
  servingS: number | null
  databaseS: number | null
  walBytes: number
  transactions: number
}

export type Meter = { read(serving: readonly number[], asking?: readonly number[]): Promise<Reading> }

/** `ticksPerS` is 100 on every Linux that Node.js runs on (USER_HZ). */
const ticksPerS = 100

export function createMeter(sql: Sql, postmaster: () => number): Meter {
  return {
    async read(serving, asking = []) {
      const [row] = await sql<{ wal: string; xid: string }[]>`
        select (pg_current_wal_insert_lsn() - '0/0')::text as wal, pg_snapshot_xmax(pg_current_snapshot())::text as xid`
      const { user, system } = process.cpuUsage()
      const all = processes()
      const spentS = (pids: readonly number[]): number | null => all && sum(pids.map((pid) => treeCpuS(all, pid)))
      return {
        ownS: (user + system) / 1e6 + (spentS(asking) ?? 0),
        servingS: spentS(serving),
        databaseS: all && treeCpuS(all, postmaster()),
        walBytes: Number(row?.wal),
        transactions: Number(row?.xid),
      }
    },
  }
}

/** From one reading to a later one. */
export function difference(from: Reading, to: Reading): Reading {
  const less = (a: number | null, b: number | null): number | null => (a === null || b === null ? null : b - a)
  return {
    ownS: to.ownS - from.ownS,
    servingS: less(from.servingS, to.servingS),
    databaseS: less(from.databaseS, to.databaseS),
    walBytes: to.walBytes - from.walBytes,
    transactions: to.transactions - from.transactions,
  }
}

export type ProcessRow = { pid: number; parent: number; liveTicks: number; reapedTicks: number }

/** A line of /proc/PID/stat (proc(5)): fields 14 to 17 are the time of the process and of the children it has reaped. */
export function parseStat(text: string): ProcessRow {
  // The name, in parentheses, may hold anything.
  const rest = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const field = (number: number): number => Number(rest[number - 3])
  return {
    pid: Number.parseInt(text, 10),
    parent: field(4),
    liveTicks: field(14) + field(15),
    reapedTicks: field(16) + field(17),
  }
}

/** Of a process, all that it has reaped, and all that lives below it. */
export function treeCpuS(all: ReadonlyMap<number, ProcessRow>, root: number): number {
  const children = new Map<number, number[]>()
  for (const { pid, parent } of all.values()) children.set(parent, [...(children.get(parent) ?? []), pid])
  let ticks = 0
  for (const open = [root]; open.length > 0; ) {
    const pid = open.pop() ?? 0
    const found = all.get(pid)
    ticks += found ? found.liveTicks + found.reapedTicks : 0
    open.push(...(children.get(pid) ?? []))
  }
  return ticks / ticksPerS
}

function processes(): Map<number, ProcessRow> | null {
  if (process.platform !== 'linux') return null
  const rows = new Map<number, ProcessRow>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      rows.set(Number(name), parseStat(readFileSync(`/proc/${name}/stat`, 'utf8')))
    } catch {
      // It has ended meanwhile.
    }
  }
  return rows
}

/** Resident bytes of a process; null where there is no /proc. */
export function residentBytes(pid: number): number | null {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return kilobytes ? Number(kilobytes[1]) * 1024 : null
  } catch {
    return null
  }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0)
