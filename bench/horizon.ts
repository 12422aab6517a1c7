/**
 * The field's known failure, on purpose: some other transaction stays open, so vacuum can clean nothing, while messages are
 * cycled at batch 100. A line for each five seconds; flat is good. `node --import tsx bench/horizon.ts [seconds]`.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import postgres from 'postgres'
import { createBroker } from '../src/broker/index.ts'
import { startEmbedded } from '../src/store/embedded/index.ts'
import { migrate } from '../src/store/index.ts'

const seconds = Number(process.argv[2] ?? 60)
const bucketS = 5
const dir = mkdtempSync(path.join(tmpdir(), 'postern-horizon-'))
chmodSync(dir, 0o755)
const server = await startEmbedded({ dir, log: () => {} })
await migrate(server.url)
const broker = createBroker({
  databaseUrl: server.url,
  listenUrl: null,
  pool: 10,
  prepare: true,
  upkeep: true,
  log: () => {},
})
await broker.start()
await broker.admin.putQueue('q', {})

const holder = postgres(server.url, { max: 1 })
const pinned = await holder.reserve()
await pinned`begin isolation level repeatable read`
await pinned`select pg_current_xact_id()`

const message = {
  body: Buffer.alloc(200, 'x'),
  contentType: 'text/plain',
  headers: null,
  key: null,
  priority: 5,
  delayMs: null,
  deliverAtMs: null,
  ttlMs: null,
  dedupId: null,
}
const hundred = Array.from({ length: 100 }, () => message)
const signal = new AbortController().signal
const startMs = performance.now()
const buckets: number[] = []
await Promise.all(
  Array.from({ length: 4 }, async () => {
    while (performance.now() - startMs < seconds * 1000) {
      await broker.send('q', hundred)
      const { messages } = await broker.receive('q', { max: 100, waitMs: 1000, leaseMs: null, signal })
      await broker.settle(
        messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
        { queue: null, may: () => true },
      )
      const bucket = Math.floor((performance.now() - startMs) / 1000 / bucketS)
      buckets[bucket] = (buckets[bucket] ?? 0) + messages.length
    }
  }),
)
const rates = buckets.slice(0, Math.floor(seconds / bucketS)).map((count) => Math.round(count / bucketS))
console.log(`messages/s while vacuum is held back, each ${bucketS} s: ${rates.join(' ')}`)
console.log(
  `${buckets.reduce((sum, count) => sum + count, 0)} messages; last to first: ${((rates.at(-1) ?? 0) / (rates[0] ?? 1)).toFixed(2)}`,
)

await pinned`rollback`
pinned.release()
await holder.end()
await broker.stop(5000)
await server.stop()
rmSync(dir, { recursive: true, force: true })
process.exit(0)
