/**
 * `npm run bench`: Postern beside its rivals and beside what the machine allows, on an embedded Postgres with its default
 * durability. See README.md beside this file. Each rate is the median of interleaved rounds; read the ratios of one run, not the figures of two.
 * `--seconds 2 --rounds 3` by default; `--only push,latency` runs what has one of these in its name; `--out NAME` names the files; `--minutes 15` is
 * how long `--only soak` takes.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { chartOf } from './chart.ts'
import { fanOutPart } from './fan_out.ts'
import { figures, judge } from './figures.ts'
import { endSharedGateway } from './gateway.ts'
import { growthParts } from './growth.ts'
import { heldBackPart } from './held_back.ts'
import { httpParts } from './http.ts'
import { keyedPart } from './keyed.ts'
import { httpLatencyPart, latencyPart } from './latency.ts'
import { limitsPart } from './limits.ts'
import { memoryPart } from './memory.ts'
import { parkedPart } from './parked.ts'
import { openPlace, type Place } from './place.ts'
import { pushPart } from './push.ts'
import { queuesHttpPart, queuesPart } from './queues.ts'
import { partLines, tableLines, valuesOf, verdictLines } from './report.ts'
import { findRabbit } from './rivals/index.ts'
import { type LatencyRow, type Part, type Row, runLatencies, runRounds, type Table } from './rounds.ts'
import { soakPart } from './soak.ts'
import { standingParts } from './standing.ts'
import { topicsPart } from './topics.ts'
import { versusHttpParts, versusParts } from './versus.ts'

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
    out: { type: 'string' },
    minutes: { type: 'string', default: '15' },
  },
})
const wanted = options.only?.split(',')
/** A part of a run does not take the place of a whole one. */
const out = options.out ?? (wanted ? 'part' : 'latest')
const chosen = ({ name, apart }: { name: string; apart?: boolean }): boolean =>
  wanted ? wanted.some((word) => name.includes(word)) : apart !== true

type PartOf = (place: Place) => Part | Part[]
const inProcess: PartOf[] = [
  limitsPart,
  versusParts,
  standingParts,
  heldBackPart,
  queuesPart,
  keyedPart,
  fanOutPart,
  topicsPart,
  pushPart,
  latencyPart,
  growthParts,
]
/** By gateways of their own, with none in this process beside them. */
const overHttp: PartOf[] = [
  versusHttpParts,
  queuesHttpPart,
  httpParts,
  httpLatencyPart,
  parkedPart,
  memoryPart,
  soakPart(Number(options.minutes)),
]
const rows: Row[] = []
const latencies: LatencyRow[] = []
const tables: Table[] = []
const said: string[] = []
const say = (lines: readonly string[]): void => {
  said.push(...lines)
  if (lines.length > 0) console.log(lines.join('\n'))
}

const place = await openPlace()
let givingUp = false
function giveUp(): void {
  // Who asks twice wants it now: children and Postgres notice that this process has gone, and end by themselves.
  if (givingUp) process.exit(1)
  givingUp = true
  void place.close().then(() => process.exit(1))
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, giveUp)
process.on('uncaughtException', (error) => {
  // What was under way fails while it is being stopped.
  if (givingUp) return
  console.error(error)
  giveUp()
})
const startMs = performance.now()
let failed = false
try {
  if (findRabbit() === null) console.log('RabbitMQ is not installed (no rabbitmq-server in PATH): left out.')
  for (const part of inProcess.flatMap((partOf) => partOf(place))) await runPart(part)
  await place.retireBroker()
  for (const part of overHttp.flatMap((partOf) => partOf(place))) await runPart(part)
  await finish()
} catch (error) {
  if (!givingUp) console.error(error)
  failed = true
}
await place.close()
process.exit(failed ? 1 : 0)

async function runPart(part: Part): Promise<void> {
  const roundMs = Number(options.seconds) * 1000
  const measured = await runRounds(part.scenarios.filter(chosen), Number(options.rounds), roundMs, place.meter)
  const timed = await runLatencies(part.latencies.filter(chosen))
  rows.push(...measured)
  latencies.push(...timed)
  say(partLines(part, measured, timed))
  for (const study of part.studies?.filter(chosen) ?? []) {
    const table = await study.measure()
    tables.push(table)
    say(tableLines(table))
  }
  await part.close?.()
  await endSharedGateway(place)
  if (measured.length + timed.length > 0) say([`(${((performance.now() - startMs) / 1000).toFixed(0)} s)`])
}

/** Of the packages that take part, as they are installed. */
function versionOf(name: string): string {
  const file = new URL(`../node_modules/${name}/package.json`, import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}

async function finish(): Promise<void> {
  const verdicts = judge(figures, valuesOf(rows, latencies, tables))
  say(verdictLines(verdicts))
  const minutes = (performance.now() - startMs) / 60_000
  const [server] = await place.sql<{ server_version: string }[]>`show server_version`
  const machine = {
    node: process.version,
    postgres: server?.server_version,
    rivals: Object.fromEntries(['pg-boss', 'graphile-worker', 'amqplib'].map((name) => [name, versionOf(name)])),
    processors: cpus().length,
    processor: cpus()[0]?.model ?? '',
  }
  const folder = new URL('results/', import.meta.url).pathname
  mkdirSync(folder, { recursive: true })
  const results = { ...machine, minutes: Number(minutes.toFixed(1)), verdicts, rows, latencies, tables }
  writeFileSync(path.join(folder, `${out}.json`), `${JSON.stringify(results, null, 2)}\n`)
  writeFileSync(path.join(folder, `${out}.svg`), chartOf({ verdicts, rows, latencies }))
  writeFileSync(path.join(folder, `${out}.txt`), `${said.join('\n')}\n`)
  console.log(`\n${minutes.toFixed(1)} minutes; bench/results/${out}.txt, .json and .svg`)
}
