/**
 * `npm run chaos`: breaks three gateways and their Postgres for a minute while clients use them, and judges what the clients saw. Exit
 * code 1: a promise was broken; the seed it prints makes the same plan again.
 */
import { parseArgs } from 'node:util'
import { type FaultName, faultNames } from './faults.ts'
import { run } from './run.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    seconds: { type: 'string', default: '60' },
    gap: { type: 'string', default: '2.5' },
    only: { type: 'string' },
    rolling: { type: 'boolean', default: false },
    previous: { type: 'string' },
  },
})
const stopping = new AbortController()
let signals = 0
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    if (++signals > 1) process.exit(130)
    console.log('stopping')
    stopping.abort()
  })

const chosen: FaultName[] = faultNames.filter((name) => !values.only || name.includes(values.only))
console.log(`seed ${values.seed}, ${values.seconds} s, ${values.rolling ? 'rolling restart' : chosen.join(', ')}`)
const startMs = performance.now()
const verdict = await run({
  seed: Number(values.seed),
  seconds: Number(values.seconds),
  gapMs: Number(values.gap) * 1000,
  faults: chosen,
  rolling: values.rolling,
  previous: values.previous ?? null,
  signal: stopping.signal,
  log: (text) => console.log(text),
}).catch((error: unknown) => {
  if (!stopping.signal.aborted) throw error
  process.exit(130)
})
const { violations, history } = verdict
const unknown = history.sends.filter(({ id }) => id === null).length
const lost = history.settles.filter(({ outcome }) => outcome === 'lease_lost').length
console.log(
  `${history.sends.length} sends (${unknown} of unknown fate), ${history.deliveries.length} deliveries, ${history.calls.length} webhook calls, ` +
    `${history.settles.length} settles (${lost} lease_lost), ${history.remaining.length} dead letters, ${Math.round((performance.now() - startMs) / 1000)} s`,
)
for (const { rule, detail } of violations.slice(0, 50)) console.log(`VIOLATION ${rule}: ${detail}`)
console.log(violations.length > 0 ? `seed ${values.seed}: ${violations.length} violations` : 'ok')
process.exit(violations.length > 0 ? 1 : 0)
