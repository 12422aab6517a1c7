/** How often values lay where: counts between fixed bounds, kept so cheaply that the hot path may count every message. */

export type Histogram = {
  /** Ascending; a value counts under the first bound that is not below it. */
  readonly bounds: readonly number[]
  /** One more than bounds: the last is of what lies beyond them all. */
  readonly counts: number[]
  sum: number
}

export const histogram = (bounds: readonly number[]): Histogram => ({
  bounds,
  counts: Array.from({ length: bounds.length + 1 }, () => 0),
  sum: 0,
})

/** `times`: as many values of the same size. */
export function observe(into: Histogram, value: number, times = 1): void {
  const { bounds, counts } = into
  let at = 0
  while (at < bounds.length && value > (bounds[at] as number)) at++
  counts[at] = (counts[at] as number) + times
  into.sum += value * times
}

/** Adds what `from` has counted, of the same bounds, and empties it. */
export function pour(from: Histogram, into: Histogram): void {
  for (const [at, count] of from.counts.entries()) into.counts[at] = (into.counts[at] ?? 0) + count
  into.sum += from.sum
  from.counts.fill(0)
  from.sum = 0
}
