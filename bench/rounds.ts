/** Interleaved rounds, so that whatever else the machine does meets all scenarios alike; medians, and what a message costs. */
import { difference, type Meter, type Reading } from './meter.ts'

/** `--only` chooses by name. */
export type Scenario = {
  name: string
  /** Before each round, not measured. */
  prepare?(roundMs: number): Promise<unknown>
  /** Per second, measured for about `roundMs`; only what is measured belongs in here. */
  run(roundMs: number): Promise<number>
  /** After each round, not measured. */
  tidy?(): Promise<unknown>
  /** The processes that serve, when it is not this one. */
  serving?(): readonly number[]
  /** The processes that ask, when it is not this one alone. */
  asking?(): readonly number[]
  /** Postgres has no part in it. */
  elsewhere?: boolean
  /** Left out unless it is asked for. */
  apart?: boolean
}

/** Milliseconds, one for each message. */
export type Latency = { name: string; measure(): Promise<number[]> }

export type Cell = string | number | null
/** `values`: what figures ask of it. */
export type Table = { title: string; columns: string[]; rows: Cell[][]; values: Record<string, number> }
/** A measurement of its own kind; `apart`: left out unless it is asked for. */
export type Study = { name: string; apart?: boolean; measure(): Promise<Table> }

/** `ratios`: names of scenarios or latencies, the first as a part of the second. */
export type Part = {
  title: string
  scenarios: Scenario[]
  latencies: Latency[]
  studies?: Study[]
  ratios: [string, string][]
  /** When all of it is measured. */
  close?(): Promise<unknown>
}

/** Costs for 1,000 messages in CPU seconds: of this process and of those that ask for it, of those that serve, of Postgres. null: not known, or none. */
export type Row = {
  name: string
  perSecond: number
  lowest: number
  highest: number
  ownS: number
  servingS: number | null
  databaseS: number | null
  walBytesEach: number | null
  perTransaction: number | null
}
export type LatencyRow = { name: string; count: number; p50: number; p95: number; p99: number; p999: number }

type Call = {
  callers: number
  /** How many messages it moved; must end what it begins. 0: there is nothing left. */
  call(caller: number): Promise<number>
}

/** Messages per second of callers who call again and again; the number of calls is bounded by the time alone. */
export async function calling({ callers, call }: Call, roundMs: number): Promise<number> {
  const startMs = performance.now()
  let moved = 0
  await Promise.all(
    Array.from({ length: callers }, async (_, caller) => {
      while (performance.now() - startMs < roundMs) {
        const count = await call(caller)
        if (count === 0) break
        moved += count
      }
    }),
  )
  return (moved / (performance.now() - startMs)) * 1000
}

type Round = { rate: number; messages: number; cost: Reading }

/** The first round warms up and does not count. */
export async function runRounds(
  scenarios: readonly Scenario[],
  rounds: number,
  roundMs: number,
  meter: Meter,
): Promise<Row[]> {
  const results = scenarios.map((scenario) => ({ scenario, rounds: [] as Round[] }))
  for (let round = 0; round <= rounds; round++) {
    for (const [at, scenario] of scenarios.entries()) {
      await scenario.prepare?.(roundMs)
      const serving = scenario.serving?.() ?? []
      const asking = scenario.asking?.() ?? []
      const before = await meter.read(serving, asking)
      const startMs = performance.now()
      const rate = await scenario.run(roundMs)
      const messages = (rate * (performance.now() - startMs)) / 1000
      const cost = difference(before, await meter.read(serving, asking))
      await scenario.tidy?.()
      if (round > 0) results[at]?.rounds.push({ rate, messages, cost })
    }
  }
  return results.map(({ scenario, rounds: each }) => rowOf(scenario, each))
}

function rowOf({ name, serving, elsewhere }: Scenario, rounds: readonly Round[]): Row {
  const rates = rounds.map(({ rate }) => rate)
  const each = (cost: (reading: Reading) => number | null): number | null => {
    const values = rounds.map(({ messages, cost: reading }) => {
      const value = cost(reading)
      return value === null ? null : value / messages
    })
    return values.includes(null) ? null : median(values as number[])
  }
  const thousand = (value: number | null): number | null => (value === null ? null : value * 1000)
  const transactions = each((reading) => reading.transactions)
  return {
    name,
    perSecond: Math.round(median(rates)),
    lowest: Math.round(Math.min(...rates)),
    highest: Math.round(Math.max(...rates)),
    ownS: thousand(each((reading) => reading.ownS)) ?? 0,
    servingS: serving ? thousand(each((reading) => reading.servingS)) : null,
    databaseS: elsewhere ? null : thousand(each((reading) => reading.databaseS)),
    walBytesEach: elsewhere ? null : Math.round(each((reading) => reading.walBytes) ?? 0),
    perTransaction: transactions && !elsewhere ? 1 / transactions : null,
  }
}

export async function runLatencies(latencies: readonly Latency[]): Promise<LatencyRow[]> {
  const rows: LatencyRow[] = []
  for (const { name, measure } of latencies) rows.push(latencyRow(name, await measure()))
  return rows
}

export const latencyRow = (name: string, took: readonly number[]): LatencyRow => ({
  name,
  count: took.length,
  p50: quantile(took, 0.5),
  p95: quantile(took, 0.95),
  p99: quantile(took, 0.99),
  p999: quantile(took, 0.999),
})

export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const half = sorted.length / 2
  return ((sorted[Math.ceil(half) - 1] ?? 0) + (sorted[Math.floor(half)] ?? 0)) / 2
}

/** The smallest of the numbers that at least this share of them does not exceed; 0 of none. */
export function quantile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}
