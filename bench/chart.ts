/** The results as one picture: bars for rates and latencies, grouped by what is compared. A pure function to SVG. */
import type { Verdict } from './figures.ts'
import type { LatencyRow, Row } from './rounds.ts'

const width = 960
const labelWidth = 430
const barHeight = 16
const step = 22
const headHeight = 34
const colours = { ours: '#2563eb', others: '#94a3b8', held: '#16a34a', missed: '#dc2626' }

type Bar = { label: string; value: number; text: string; colour: string; low?: number; high?: number }
type Group = { title: string; bars: Bar[] }

/** A name is `part  what, who`; one group for each part and what, in the order of the rows. */
export function chartOf(results: { verdicts: Verdict[]; rows: Row[]; latencies: LatencyRow[] }): string {
  const groups: Group[] = [
    { title: 'figures wanted (reached / wanted; 1 is enough)', bars: results.verdicts.map(verdictBar) },
    ...grouped(results.rows.map((row) => [row.name, rateBar(row)])).map(([title, bars]) => ({
      title: `${title}: messages per second, median and spread`,
      bars,
    })),
    ...grouped(results.latencies.map((row) => [row.name, latencyBar(row)])).map(([title, bars]) => ({
      title: `${title}: milliseconds, p50 / p99 / p99.9`,
      bars,
    })),
  ].filter(({ bars }) => bars.length > 0)
  let y = 0
  const drawn = groups.map((group) => {
    const from = y
    y += headHeight + group.bars.length * step
    return drawGroup(group, from)
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y + 12}" viewBox="0 0 ${width} ${y + 12}" font-family="sans-serif" font-size="12">
<title>Postern beside its rivals</title>
<rect width="100%" height="100%" fill="#ffffff"/>
${drawn.join('\n')}
</svg>
`
}

function grouped(named: readonly (readonly [string, Bar])[]): [string, Bar[]][] {
  const groups = new Map<string, Bar[]>()
  for (const [name, bar] of named) {
    const at = name.lastIndexOf(', ')
    const title = at < 0 ? (name.split('  ')[0] ?? name) : name.slice(0, at)
    const label = at < 0 ? name : name.slice(at + 2)
    groups.set(title, [...(groups.get(title) ?? []), { ...bar, label }])
  }
  return [...groups]
}

const colourOf = (name: string): string =>
  /pg-boss|graphile|RabbitMQ|bare|raw/.test(name) ? colours.others : colours.ours

const rateBar = ({ name, perSecond, lowest, highest }: Row): Bar => ({
  label: name,
  value: perSecond,
  text: perSecond.toLocaleString('en'),
  colour: colourOf(name),
  low: lowest,
  high: highest,
})

const latencyBar = ({ name, p50, p99, p999 }: LatencyRow): Bar => ({
  label: name,
  value: p50,
  text: `${p50.toFixed(1)} / ${p99.toFixed(1)} / ${p999.toFixed(1)}`,
  colour: colourOf(name),
  low: p50,
  high: p99,
})

function verdictBar({ name, wanted, reached, most, holds }: Verdict): Bar {
  const share = most ? wanted / reached : reached / wanted
  return {
    label: name,
    value: Math.min(share, 3),
    text: `${reached.toFixed(2)} (${most ? '≤' : '≥'} ${wanted})`,
    colour: holds ? colours.held : colours.missed,
  }
}

function drawGroup({ title, bars }: Group, y: number): string {
  const most = Math.max(...bars.map(({ value, high }) => Math.max(value, high ?? 0)), Number.MIN_VALUE)
  const scale = (value: number): number => (value / most) * (width - labelWidth - 190)
  const drawn = bars.map((bar, at) => {
    const top = y + headHeight + at * step
    const [low, high] = [labelWidth + scale(bar.low ?? bar.value), labelWidth + scale(bar.high ?? bar.value)]
    const middle = top + barHeight / 2
    return [
      `<text x="${labelWidth - 8}" y="${top + 12}" text-anchor="end">${escaped(bar.label)}</text>`,
      `<rect x="${labelWidth}" y="${top}" width="${scale(bar.value).toFixed(1)}" height="${barHeight}" fill="${bar.colour}"/>`,
      `<line x1="${low.toFixed(1)}" y1="${middle}" x2="${high.toFixed(1)}" y2="${middle}" stroke="#0f172a"/>`,
      `<text x="${(Math.max(high, labelWidth + scale(bar.value)) + 6).toFixed(1)}" y="${top + 12}">${escaped(bar.text)}</text>`,
    ].join('')
  })
  return [`<text x="12" y="${y + 22}" font-weight="bold">${escaped(title)}</text>`, ...drawn].join('\n')
}

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
