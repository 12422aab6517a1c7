/** What breaks, when, and for how long: drawn from the seed, so that a plan can be run again. Each fault ends what it began. */
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { isAlive } from '../src/store/embedded/processes.ts'
import { type Cluster, drainMs, type Gateway } from './cluster.ts'
import type { Random } from './random.ts'

type Fault = (cluster: Cluster, gateway: Gateway, forMs: number, mishap: (text: string) => void) => Promise<void>

export const faults = {
  'kill a gateway': async (_, gateway, forMs) => {
    if (!gateway.up()) return
    await gateway.end('SIGKILL')
    await sleep(forMs / 2)
    await gateway.start()
  },
  'freeze a gateway': async (_, gateway, forMs) => {
    if (!gateway.up()) return
    gateway.signal('SIGSTOP')
    await sleep(forMs)
    gateway.signal('SIGCONT')
  },
  'restart a gateway': async (_, gateway, __, mishap) => {
    if (!gateway.up()) return
    const startMs = performance.now()
    const how = await gateway.end('SIGTERM')
    const tookMs = performance.now() - startMs
    if (how !== 0) mishap(`gateway ${gateway.number} exited ${how} on SIGTERM`)
    // Leaving the database takes a moment more; what is held against it is a multiple.
    if (tookMs > drainMs + 5000) mishap(`gateway ${gateway.number} took ${Math.round(tookMs)} ms to stop`)
    await gateway.start()
  },
  'kill Postgres': async ({ postgres: server }) => {
    if (isAlive(server.pid())) process.kill(server.pid(), 'SIGKILL')
  },
  'cut clients': async ({ front }) => front.cut(),
  'cut a gateway from Postgres': async (_, gateway) => gateway.back.cut(),
  'stall clients': async ({ front }, _, forMs) => during(forMs, front.stall),
  'stall a gateway from Postgres': async (_, gateway, forMs) => during(forMs, gateway.back.stall),
  'slow a gateway from Postgres': async (_, gateway, forMs) =>
    during(forMs, (on) => gateway.back.slow(on ? 20 + forMs / 50 : 0)),
  'hold back the horizon': async ({ postgres: server }, _, forMs) => {
    const sql = postgres(server.url, { max: 1, onnotice: () => {}, connect_timeout: 2 })
    // Where Postgres is killed meanwhile, it holds back nothing either.
    await sql
      .begin('isolation level repeatable read', async (tx) => {
        await tx`select pg_current_xact_id()`
        await sleep(forMs * 2)
      })
      .catch(() => {})
    await sql.end({ timeout: 1 })
  },
  'fill the disk': async ({ disk }, _, forMs) => {
    if (disk === null) return
    const filler = path.join(disk, 'filler')
    // More than there is: it takes what it gets.
    spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=1M', 'count=2000'], { stdio: 'ignore' })
    await sleep(forMs)
    rmSync(filler, { force: true })
  },
} satisfies Record<string, Fault>

export type FaultName = keyof typeof faults
export const faultNames = Object.keys(faults) as FaultName[]

async function during(ms: number, turn: (on: boolean) => void): Promise<void> {
  turn(true)
  await sleep(ms)
  turn(false)
}

export type Planned = { atMs: number; fault: FaultName; gateway: number; forMs: number }

/** Every kind before any comes again; they may overlap. The last one ends before the time does, or soon after. */
export function planOf(random: Random, names: readonly FaultName[], totalMs: number, gapMs: number): Planned[] {
  const plan: Planned[] = []
  let left: FaultName[] = []
  for (let atMs = gapMs; atMs < totalMs - gapMs; atMs += random.between(gapMs / 2, gapMs * 1.5)) {
    if (left.length === 0) left = random.shuffled(names)
    const fault = left.pop()
    if (!fault) break
    plan.push({ atMs: Math.round(atMs), fault, gateway: random.between(0, 2), forMs: random.between(500, 4000) })
  }
  return plan
}

/** Runs the plan; resolves when the last fault is over, and all gateways are up. */
export async function wreak(
  cluster: Cluster,
  plan: readonly Planned[],
  mishap: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const startMs = performance.now()
  await Promise.all(
    plan.map(async ({ atMs, fault, gateway: number, forMs }) => {
      await sleep(atMs - (performance.now() - startMs), null, { signal }).catch(() => {})
      const gateway = cluster.gateways[number]
      if (!gateway || signal.aborted) return
      await (faults[fault] as Fault)(cluster, gateway, forMs, mishap)
    }),
  )
}

/** One gateway after the other leaves and comes back: an upgrade, of the one with the older version last. */
export async function rollOver(cluster: Cluster, mishap: (text: string) => void): Promise<void> {
  for (const gateway of [...cluster.gateways].reverse()) await faults['restart a gateway'](cluster, gateway, 0, mishap)
}
