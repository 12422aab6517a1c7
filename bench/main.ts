/**
 * `npm run bench`: cycles, sends and receives through the broker in this process and over HTTP, webhooks, topics and keys, on an embedded
 * Postgres with its default durability. Each figure is the median of interleaved rounds; read the ratios of one run, not the
 * figures of two. `--seconds 2 --rounds 3` by default; `--only push` runs what has that in its name.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { httpPart } from './http.ts'
import { keyedPart } from './keyed.ts'
import { openPlace } from './place.ts'
import { pushPart } from './push.ts'
import { queuesPart } from './queues.ts'
import { type LatencyRow, print, type Row, runLatencies, runRounds } from './rounds.ts'
import { topicsPart } from './topics.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
  },
})
const chosen = ({ name }: { name: string }): boolean => !values.only || name.includes(values.only)

const place = await openPlace()
const rows: Row[] = []
const latencies: LatencyRow[] = []
for (const partOf of [queuesPart, httpPart, pushPart, topicsPart, keyedPart]) {
  const part = partOf(place)
  const measured = await runRounds(part.scenarios.filter(chosen), Number(values.rounds), Number(values.seconds) * 1000)
  const timed = await runLatencies(part.latencies.filter(chosen))
  print(part, measured, timed)
  rows.push(...measured)
  latencies.push(...timed)
}
const folder = new URL('results/', import.meta.url).pathname
mkdirSync(folder, { recursive: true })
writeFileSync(
  path.join(folder, 'latest.json'),
  `${JSON.stringify({ node: process.version, rows, latencies }, null, 2)}\n`,
)
await place.close()
process.exit(0)
