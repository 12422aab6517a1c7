/** Rates as people write them: a whole number and a unit, `10/s`, `600/m`, `5000/h`. */
import { formatDuration } from './duration.ts'

/** So many in so long. */
export type Rate = { count: number; perMs: number }

const units = { s: 1000, m: 60_000, h: 3_600_000 } as const
/** For descriptions; what `parseRate` takes. */
export const ratePattern = '^[1-9]\\d{0,5}/[smh]$'
const pattern = /^([1-9]\d{0,5})\/([smh])$/

/** null when the text is no rate. */
export function parseRate(text: string): Rate | null {
  const [, count, unit] = pattern.exec(text) ?? []
  return count === undefined ? null : { count: Number(count), perMs: units[unit as keyof typeof units] }
}

export const formatRate = ({ count, perMs }: Rate): string =>
  `${count}/${Object.entries(units).find(([, ms]) => ms === perMs)?.[0] ?? formatDuration(perMs)}`
