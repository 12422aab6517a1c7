/** Points in time as RFC 3339 writes them, strictly: `2030-01-31T09:00:00Z`, `2030-01-31T10:00:00.5+01:00`. */

const pattern = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))$/

/** Milliseconds since 1970, rounded up so that nothing is early; null when the text is no point in time. */
export function parseTime(text: string): number | null {
  const match = pattern.exec(text)
  if (!match) return null
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ]
  const fraction = match[7] === undefined ? 0 : Math.ceil(Number(`${match[7].padEnd(9, '0')}`) / 1e6)
  const [zoneHours, zoneMinutes] = [Number(match[9] ?? 0), Number(match[10] ?? 0)]
  if (hour > 23 || minute > 59 || second > 59 || zoneHours > 23 || zoneMinutes > 59) return null
  const date = new Date(0)
  date.setUTCFullYear(year, month - 1, day)
  // 30 February has become some day in March.
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return null
  const zoneMs = (zoneHours * 60 + zoneMinutes) * 60_000 * (match[8] === '-' ? -1 : 1)
  return date.setUTCHours(hour, minute, second) + fraction - zoneMs
}
