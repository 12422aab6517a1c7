/** Interleaved rounds, so that whatever else the machine does meets all scenarios alike; medians, and ratios of medians. */

/** `--only` chooses by name. */
export type Scenario = {
  name: string
  /** Before each round, not measured. */
  prepare?(): Promise<unknown>
  /** Per second, measured for about `roundMs`. */
  run(roundMs: number): Promise<number>
  /** After each round, not measured. */
  tidy?(): Promise<unknown>
}

/** Milliseconds, one for each message. */
export type Latency = { name: string; measure(): Promise<number[]> }

/** `ratios`: names of scenarios or latencies, the first as a part of the second. */
export type Part = { title: string; scenarios: Scenario[]; latencies: Latency[]; ratios: [string, string][] }

export type Row = { name: string; perSecond: number; lowest: number; highest: number }
export type LatencyRow = { name: string; p50: number; p99: number }

type Call = {
  callers: number
  /** How many messages it moved; must end what it begins. 0: there is nothing left. */
  call(): Promise<number>
}

/** Messages per second of callers who call again and again; the number of calls is bounded by the time alone. */
export async function calling({ callers, call }: Call, roundMs: number): Promise<number> {
  const startMs = performance.now()
  let moved = 0
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (performance.now() - startMs < roundMs) {
        const count = await call()
        if (count === 0) break
        moved += count
      }
    }),
  )
  return (moved / (performance.now() - startMs)) * 1000
}

/** The first round warms up and does not count. */
export async function runRounds(scenarios: readonly Scenario[], rounds: number, roundMs: number): Promise<Row[]> {
  const results = scenarios.map(({ name }) => ({ name, rates: [] as number[] }))
  for (let round = 0; round <= rounds; round++) {
    for (const [at, scenario] of scenarios.entries()) {
      await scenario.prepare?.()
      const rate = await scenario.run(roundMs)
      await scenario.tidy?.()
      if (round > 0) results[at]?.rates.push(rate)
    }
  }
  return results.map(({ name, rates }) => ({
    name,
    perSecond: Math.round(quantile(rates, 0.5)),
    lowest: Math.round(Math.min(...rates)),
    highest: Math.round(Math.max(...rates)),
  }))
}

export async function runLatencies(latencies: readonly Latency[]): Promise<LatencyRow[]> {
  const rows: LatencyRow[] = []
  for (const { name, measure } of latencies) {
    const took = await measure()
    rows.push({ name, p50: quantile(took, 0.5), p99: quantile(took, 0.99) })
  }
  return rows
}

export function print(part: Part, rows: readonly Row[], latencies: readonly LatencyRow[]): void {
  const cell = (value: number, digits = 0): string => value.toFixed(digits).padStart(9)
  if (rows.length > 0) console.log(`\n${part.title.padEnd(52)}   median    lowest   highest`)
  for (const { name, perSecond, lowest, highest } of rows)
    console.log(`${name.padEnd(52)}${cell(perSecond)} ${cell(lowest)} ${cell(highest)}`)
  if (latencies.length > 0) console.log(`\n${'milliseconds'.padEnd(52)}      p50       p99`)
  for (const { name, p50, p99 } of latencies) console.log(`${name.padEnd(52)}${cell(p50, 2)} ${cell(p99, 2)}`)
  const values = new Map(rows.map(({ name, perSecond }) => [name, perSecond]))
  for (const { name, p50 } of latencies) values.set(name, p50)
  for (const [one, other] of part.ratios) {
    const [above, below] = [values.get(one), values.get(other)]
    if (above && below) console.log(`${(above / below).toFixed(2)}  ${one}  /  ${other}`)
  }
}

function quantile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}
