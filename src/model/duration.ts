/** Durations as people write them: a number of seconds, or `500ms 30s 5m 2h 7d`. */
const pattern = /^(\d{1,15}(?:\.\d{1,9})?)(ms|s|m|h|d)?$/
const unitMs = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** Whole milliseconds (rounded up, so that nothing is early), or null when the text or number is no duration. */
export function parseDuration(value: string | number): number | null {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? Math.ceil(round(value * 1000)) : null
  const match = pattern.exec(value)
  if (!match) return null
  const ms = Number(match[1]) * unitMs[(match[2] ?? 's') as keyof typeof unitMs]
  return Number.isFinite(ms) ? Math.ceil(round(ms)) : null
}

/** Shortest exact form: `90s`, `5m`, `500ms`, `0s`. */
export function formatDuration(ms: number): string {
  if (ms === 0) return '0s'
  for (const [unit, size] of [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1000],
  ] as const) {
    if (ms % size === 0) return `${ms / size}${unit}`
  }
  return `${ms}ms`
}

/** 0.29 * 1000 is 290.00000000000006: a thousandth of a millisecond is noise. */
const round = (ms: number): number => Math.round(ms * 1000) / 1000
