/**
 * The field's known failure, on purpose: some other transaction stays open, so vacuum can clean nothing, while messages are
 * cycled. For a million messages, or as long as it takes to see; a line for each ten seconds. `horizon.ts` has more of this kind.
 */
import postgres from 'postgres'
import { type Place, sleep } from './place.ts'
import { type Contender, lazily, onPostgres, postern } from './rivals/index.ts'
import type { Part, Study, Table } from './rounds.ts'

const wantedMessages = 1_000_000
const bucketMs = 10_000
const callers = 4
/** Postern goes on until it has its million; the others show what they become in a minute. */
const mostMs = { ours: 180_000, others: 60_000 }
const leastMs = 3 * bucketMs
const sampleMs = 100

export const heldBackName = (contender: Pick<Contender, 'name'>): string =>
  `horizon  ${contender.name}, last to first 10 s`

export function heldBackPart(place: Place): Part {
  return {
    title: '',
    scenarios: [],
    latencies: [],
    studies: onPostgres.map((contender) => studyOf(place, contender)),
    ratios: [],
  }
}

function studyOf(place: Place, contender: Contender): Study {
  return {
    name: `horizon  ${contender.name}`,
    async measure() {
      const { line, close } = lazily(place, contender)
      const opened = await line()
      // Connected, and compiled.
      await cycling(() => opened.cycle(100), 2000, Number.POSITIVE_INFINITY)
      const release = await hold(opened.databaseUrl ?? place.databaseUrl)
      const samples = await cycling(
        () => opened.cycle(100),
        contender === postern ? mostMs.ours : mostMs.others,
        wantedMessages,
      )
      await release()
      await close()
      return tableOf(contender, samples)
    },
  }
}

/** A transaction with an id and a snapshot, open until it is released. */
async function hold(databaseUrl: string): Promise<() => Promise<void>> {
  const holder = postgres(databaseUrl, { max: 1 })
  const pinned = await holder.reserve()
  await pinned`begin isolation level repeatable read`
  await pinned`select pg_current_xact_id()`
  return async () => {
    await pinned`rollback`
    pinned.release()
    await holder.end()
  }
}

export type Sample = { ms: number; moved: number }

/** Until so many are moved, but for three lines at least and no longer than that; what was moved by when. */
async function cycling(cycle: () => Promise<number>, most: number, enough: number): Promise<Sample[]> {
  const startMs = performance.now()
  const samples: Sample[] = []
  let moved = 0
  const sinceMs = (): number => performance.now() - startMs
  const over = (): boolean => sinceMs() >= most || (moved >= enough && sinceMs() >= leastMs)
  const watching = (async () => {
    for (; !over(); await sleep(sampleMs)) samples.push({ ms: sinceMs(), moved })
  })()
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (!over()) {
        const count = await cycle()
        moved += count
      }
    }),
  )
  await watching
  return [...samples, { ms: sinceMs(), moved }]
}

/** Messages per second from the first sample at or after `fromMs` to that at or after `toMs`. */
export function rateBetween(samples: readonly Sample[], fromMs: number, toMs: number): number {
  const at = (ms: number): Sample => samples.find((sample) => sample.ms >= ms) ?? samples.at(-1) ?? { ms: 0, moved: 0 }
  const [from, to] = [at(fromMs), at(toMs)]
  return to.ms > from.ms ? ((to.moved - from.moved) / (to.ms - from.ms)) * 1000 : 0
}

function tableOf(contender: Contender, samples: readonly Sample[]): Table {
  const end = samples.at(-1) ?? { ms: 0, moved: 0 }
  const starts = Array.from({ length: Math.floor(end.ms / bucketMs) }, (_, n) => n * bucketMs)
  const first = rateBetween(samples, 0, bucketMs)
  // The last ten seconds, wherever they begin.
  const last = rateBetween(samples, end.ms - bucketMs, end.ms)
  const share = first > 0 ? last / first : 0
  return {
    title: `vacuum held back: ${contender.name}, cycles of 100 x ${callers} callers, ${end.moved} messages; last 10 s to first: ${share.toFixed(2)}`,
    columns: ['from s', 'messages/s'],
    rows: starts.map((ms) => [ms / 1000, Math.round(rateBetween(samples, ms, ms + bucketMs))]),
    values: { [heldBackName(contender)]: share },
  }
}
