/** The parts of the benchmark that decide what is said: its arithmetic, its judgements, its picture. No times are measured here. */
import { describe, expect, test } from 'vitest'
import { chartOf } from '../bench/chart.ts'
import { type Figure, figures, judge } from '../bench/figures.ts'
import { rateBetween } from '../bench/held_back.ts'
import { difference, parseStat, treeCpuS } from '../bench/meter.ts'
import { partLines, tableLines, valuesOf, verdictLines } from '../bench/report.ts'
import { createGate, inPieces } from '../bench/rivals/contender.ts'
import { calling, latencyRow, median, quantile, type Row, runRounds } from '../bench/rounds.ts'

const row = (name: string, perSecond: number): Row => ({
  name,
  perSecond,
  lowest: perSecond - 1,
  highest: perSecond + 1,
  ownS: 0.01,
  servingS: null,
  databaseS: 0.02,
  walBytesEach: 600,
  perTransaction: 10,
})

describe('the arithmetic', () => {
  test('a median of an even count lies between the middle two', () => {
    expect(median([4, 1, 3, 2])).toBe(2.5)
    expect(median([9, 1, 5])).toBe(5)
  })

  test('quantiles are values that were measured', () => {
    const numbers = Array.from({ length: 1000 }, (_, n) => n + 1)
    expect([0.5, 0.99, 0.999].map((share) => quantile(numbers, share))).toEqual([501, 991, 1000])
    expect(quantile([], 0.5)).toBe(0)
    expect(latencyRow('x', numbers)).toEqual({ name: 'x', count: 1000, p50: 501, p95: 951, p99: 991, p999: 1000 })
  })

  test('a rate between two moments uses the samples at or after them', () => {
    const samples = [
      { ms: 0, moved: 0 },
      { ms: 10_000, moved: 50 },
      { ms: 20_000, moved: 60 },
    ]
    expect(rateBetween(samples, 0, 10_000)).toBe(5)
    expect(rateBetween(samples, 10_000, 20_000)).toBe(1)
    expect(rateBetween(samples, 20_000, 30_000)).toBe(0)
  })

  test('callers who find nothing stop; what the others moved is all counted', async () => {
    let left = 5
    const rate = await calling({ callers: 3, call: async () => (left-- > 0 ? 2 : 0) }, 60_000)
    expect(rate).toBeGreaterThan(0)
    expect(left).toBe(-3)
  })
})

describe('what a message costs', () => {
  test('a process whose name holds spaces and parentheses is read right', () => {
    const fields = ['S', '7', ...Array(9).fill('0'), '11', '12', '13', '14', '20', '0']
    expect(parseStat(`42 (a (b) c) ${fields.join(' ')}`)).toEqual({
      pid: 42,
      parent: 7,
      liveTicks: 23,
      reapedTicks: 27,
    })
  })

  test('a tree is its root, what that has reaped, and all below it, and nobody else', () => {
    const processes = [
      { pid: 1, parent: 0, liveTicks: 1000, reapedTicks: 0 },
      { pid: 10, parent: 1, liveTicks: 100, reapedTicks: 50 },
      { pid: 11, parent: 10, liveTicks: 20, reapedTicks: 0 },
      { pid: 12, parent: 11, liveTicks: 3, reapedTicks: 0 },
      { pid: 20, parent: 1, liveTicks: 5000, reapedTicks: 0 },
    ]
    expect(treeCpuS(new Map(processes.map((each) => [each.pid, each])), 10)).toBe(1.73)
  })

  test('is the difference of two readings, and not known when one is not', () => {
    const from = { ownS: 1, servingS: null, databaseS: 2, walBytes: 100, transactions: 5 }
    const to = { ownS: 3, servingS: null, databaseS: 7, walBytes: 400, transactions: 9 }
    expect(difference(from, to)).toEqual({ ownS: 2, servingS: null, databaseS: 5, walBytes: 300, transactions: 4 })
  })

  test('rounds interleave, the first does not count, and costs are for each message', async () => {
    const order: string[] = []
    let reading = 0
    const meter = {
      read: async () => {
        const n = reading++
        return { ownS: n, servingS: null, databaseS: n * 2, walBytes: n * 1000, transactions: n }
      },
    }
    const scenario = (name: string) => ({
      name,
      run: async () => {
        order.push(name)
        return 500
      },
    })
    const rows = await runRounds([scenario('a'), scenario('b')], 2, 1, meter)
    expect(order).toEqual(['a', 'b', 'a', 'b', 'a', 'b'])
    expect(rows.map(({ name, perSecond }) => [name, perSecond])).toEqual([
      ['a', 500],
      ['b', 500],
    ])
    // One reading apart: Postgres took twice the time of this process, whatever the count of messages.
    for (const each of rows) expect((each.databaseS ?? 0) / each.ownS).toBeCloseTo(2)
    expect(rows[0]?.servingS).toBeNull()
  })
})

describe('the judgement', () => {
  const questions: Figure[] = [
    { name: 'faster', value: 'ours', by: 'theirs', wanted: 4 },
    { name: 'soon', value: 'wait p99', wanted: 25, most: true },
    { name: 'not measured', value: 'elsewhere', wanted: 1 },
  ]
  const valuesWith = (ours: number, p99: number) =>
    valuesOf([row('ours', ours), row('theirs', 100)], [{ name: 'wait', count: 1, p50: 1, p95: 1, p99, p999: 99 }], [])

  test('holds at exactly what is wanted, and not beyond it', () => {
    expect(judge(questions, valuesWith(400, 25)).map(({ holds }) => holds)).toEqual([true, true])
    expect(judge(questions, valuesWith(399, 25.1)).map(({ holds }) => holds)).toEqual([false, false])
  })

  test('by CPU is the other way round: who costs half is twice as good', () => {
    const dear = { ...row('theirs', 100), ownS: 0.02, servingS: 0.02 }
    expect(judge(questions, valuesOf([row('ours', 400), dear], [], []))[0]?.byCpu).toBeCloseTo(2)
    const elsewhere = { ...dear, databaseS: null }
    expect(judge(questions, valuesOf([row('ours', 400), elsewhere], [], []))[0]?.byCpu).toBeNull()
  })

  test('is silent about what was not measured, and loud about what was missed', () => {
    const verdicts = judge(questions, valuesWith(100, 3))
    expect(verdicts.map(({ name }) => name)).toEqual(['faster', 'soon'])
    const lines = verdictLines(verdicts).filter((line) => line.includes('MISSED'))
    expect(lines).toHaveLength(1)
    expect(lines[0]).toMatch(/^faster.*>= 4 +1 +1 +MISSED$/)
    expect(verdictLines([])).toEqual([])
  })

  test('asks for each goal, 1 to 10', () => {
    expect([...new Set(figures.map(({ name }) => Number.parseInt(name, 10)))]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    expect(new Set(figures.map(({ name }) => name)).size).toBe(figures.length)
  })
})

describe('what is shown', () => {
  test('every row is printed, with its ratios', () => {
    const part = { title: 'per second', scenarios: [], latencies: [], ratios: [['ours', 'theirs'] as [string, string]] }
    const lines = partLines(part, [row('ours', 300), row('theirs', 100)], [])
    expect(lines.find((line) => line.startsWith('ours '))).toMatch(/300 +299 +301 +10\.0 +- +20\.0 +600 +10\.0$/)
    expect(lines.at(-1)).toBe('3.00  ours  /  theirs  by CPU 1.00')
  })

  test('a table is aligned, and says what is not known', () => {
    const table = {
      title: 't',
      columns: ['what', 'n'],
      rows: [
        ['a', 12.345],
        ['longer', null],
      ],
      values: {},
    }
    expect(tableLines(table)).toEqual(['', 't', 'what        n', 'a       12.35', 'longer      -'])
  })

  test('the picture has a bar for each result, grouped, and is well formed whatever the names hold', () => {
    const latencies = [{ name: 'wait, <us> & "them"', count: 1, p50: 1, p95: 2, p99: 2, p999: 3 }]
    const verdicts = judge([{ name: 'faster', value: 'ours', wanted: 4 }], new Map([['ours', 5]]))
    const svg = chartOf({ verdicts, rows: [row('x  cycle, ours', 300), row('x  cycle, theirs', 100)], latencies })
    expect(svg.match(/height="16"/g)).toHaveLength(4)
    expect(svg.match(/font-weight="bold"/g)).toHaveLength(3)
    expect(svg).toContain('&lt;us&gt; &amp; &quot;them&quot;')
    expect(svg).not.toMatch(/NaN|Infinity|undefined/)
    expect(chartOf({ verdicts: [], rows: [], latencies: [] })).toContain('</svg>')
  })
})

describe('the gate before handlers that are pushed to', () => {
  test('lets through as many as were granted, and answers callers in their order', async () => {
    const gate = createGate()
    const log: string[] = []
    const handler = async (name: string): Promise<void> => {
      await gate.enter()
      log.push(`in ${name}`)
      gate.done()
    }
    const handlers = ['a', 'b', 'c', 'd'].map(handler)
    const first = gate.grant(2).then(() => log.push('first'))
    const second = gate.grant(1).then(() => log.push('second'))
    await Promise.all([first, second])
    expect(log.filter((each) => each.startsWith('in'))).toEqual(['in a', 'in b', 'in c'])
    expect(log.indexOf('first')).toBeLessThan(log.indexOf('second'))
    gate.open()
    await Promise.all(handlers)
    expect(log).toContain('in d')
  })

  test('a handler that comes after the grant need not wait', async () => {
    const gate = createGate()
    const answered = gate.grant(1)
    await gate.enter()
    gate.done()
    await answered
  })
})

test('pieces add up to the whole and are no larger than allowed', async () => {
  const pieces: number[] = []
  await inPieces(23, 10, 2, async (count) => pieces.push(count))
  expect(pieces.sort((a, b) => b - a)).toEqual([10, 10, 3])
})
