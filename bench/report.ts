/** What is printed of the results: a table for each part, and the goals, each with what was reached. */
import type { Verdict } from './figures.ts'
import type { Cell, LatencyRow, Part, Row, Table } from './rounds.ts'

const nameWidth = 72

/** Every value that a ratio or a figure can ask for, by its name; of rates `name cpu` too, of latencies `name p50`, `name p95`, `name p99`, `name p999`. */
export function valuesOf(
  rows: readonly Row[],
  latencies: readonly LatencyRow[],
  tables: readonly Table[],
): Map<string, number> {
  const values = new Map(rows.map(({ name, perSecond }) => [name, perSecond]))
  for (const { name, ownS, servingS, databaseS } of rows)
    if (databaseS !== null) values.set(`${name} cpu`, ownS + (servingS ?? 0) + databaseS)
  for (const { name, p50, p95, p99, p999 } of latencies) {
    for (const [key, value] of Object.entries({ p50, p95, p99, p999 })) values.set(`${name} ${key}`, value)
    values.set(name, p50)
  }
  for (const table of tables) for (const [name, value] of Object.entries(table.values)) values.set(name, value)
  return values
}

export function partLines(part: Part, rows: readonly Row[], latencies: readonly LatencyRow[]): string[] {
  const lines: string[] = []
  if (rows.length > 0) lines.push('', ...rateLines(part.title, rows))
  if (latencies.length > 0) lines.push('', ...latencyLines(latencies))
  const values = valuesOf(rows, latencies, [])
  for (const [one, other] of part.ratios) {
    const [above, below] = [values.get(one), values.get(other)]
    const [costs, othersCost] = [values.get(`${one} cpu`), values.get(`${other} cpu`)]
    const byCpu = costs && othersCost ? `  by CPU ${(othersCost / costs).toFixed(2)}` : ''
    if (above && below) lines.push(`${(above / below).toFixed(2)}  ${one}  /  ${other}${byCpu}`)
  }
  return lines
}

/** CPU in milliseconds for 1,000 messages: of the gateway (or the library in the bench's process), of the load's process, of Postgres. */
function rateLines(title: string, rows: readonly Row[]): string[] {
  const head = ['median', 'lowest', 'highest', 'gateway', 'load', 'postgres', 'WAL B', 'per tx']
  return [
    `${' '.repeat(nameWidth)}${' '.repeat(30)}CPU ms / 1,000 messages      each`,
    title.padEnd(nameWidth) + head.map((each) => each.padStart(10)).join(''),
    ...rows.map((row) => {
      const cpu = row.servingS === null ? [row.ownS, null] : [row.servingS, row.ownS]
      const cells = [
        ...[row.perSecond, row.lowest, row.highest].map((value) => cell(value, 0)),
        ...[...cpu, row.databaseS].map((seconds) => cell(seconds === null ? null : seconds * 1000, 1)),
        cell(row.walBytesEach, 0),
        cell(row.perTransaction, 1),
      ]
      return row.name.padEnd(nameWidth) + cells.join('')
    }),
  ]
}

const latencyLines = (latencies: readonly LatencyRow[]): string[] => [
  'milliseconds'.padEnd(nameWidth) + ['p50', 'p95', 'p99', 'p99.9', 'count'].map((each) => each.padStart(10)).join(''),
  ...latencies.map(
    ({ name, p50, p95, p99, p999, count }) =>
      name.padEnd(nameWidth) + [cell(p50, 2), cell(p95, 2), cell(p99, 2), cell(p999, 2), cell(count, 0)].join(''),
  ),
]

export function tableLines({ title, columns, rows }: Table): string[] {
  const shown = (value: Cell): string => (typeof value === 'number' ? rounded(value) : (value ?? '-'))
  const texts = [columns, ...rows.map((row) => row.map(shown))]
  const widths = columns.map((_, at) => Math.max(...texts.map((row) => (row[at] ?? '').length)))
  const line = (row: readonly string[]): string =>
    row.map((text, at) => (at === 0 ? text.padEnd(widths[at] ?? 0) : text.padStart(widths[at] ?? 0))).join('  ')
  return ['', title, ...texts.map(line)]
}

export function verdictLines(verdicts: readonly Verdict[]): string[] {
  if (verdicts.length === 0) return []
  const shown = ({ wanted, most }: Verdict): string => `${most ? '<=' : '>='} ${wanted}`
  return [
    '',
    `${'goals'.padEnd(nameWidth)}    wanted   reached    by CPU`,
    ...verdicts.map(
      (verdict) =>
        verdict.name.padEnd(nameWidth) +
        shown(verdict).padStart(10) +
        rounded(verdict.reached).padStart(10) +
        (verdict.byCpu === null ? '-' : rounded(verdict.byCpu)).padStart(10) +
        (verdict.holds ? '' : '   MISSED'),
    ),
  ]
}

const rounded = (value: number): string =>
  Math.abs(value) >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(2)

const cell = (value: number | null, digits: number): string =>
  (value === null ? '-' : value.toFixed(digits)).padStart(10)
