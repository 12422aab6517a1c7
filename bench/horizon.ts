/**
 * The field's known failure, on purpose: some other transaction stays open, so vacuum can clean nothing, while messages are
 * cycled at batch 100, or sent one by one to receivers that wait, which is how a webhook gets its message, or cycled under eight hot
 * keys. A line for each five
 * seconds; flat is good. `node --conditions=compiled --import tsx bench/horizon.ts [seconds] [cycle | hand-over | keyed]`.
 */
import postgres from 'postgres'
import { may, message, openPlace, sleep } from './place.ts'

const seconds = Number(process.argv[2] ?? 60)
const kinds = ['cycle', 'hand-over', 'keyed'] as const
const kind = kinds.find((each) => each === process.argv[3]) ?? 'cycle'
const bucketS = 5
const { databaseUrl, broker, close } = await openPlace()
await broker.admin.putQueue('q', kind === 'keyed' ? { order: 'keyed' } : {})

const holder = postgres(databaseUrl, { max: 2 })
const pinned = await holder.reserve()
await pinned`begin isolation level repeatable read`
await pinned`select pg_current_xact_id()`

const hundred = Array.from({ length: 100 }, () => message)
const receive = (max: number) =>
  broker.receive('q', { max, waitMs: 1000, leaseMs: null, signal: new AbortController().signal })
async function ack(messages: readonly { receipt: string }[]): Promise<number> {
  await broker.settle(
    messages.map(({ receipt }) => ({ action: 'ack' as const, receipt })),
    may,
  )
  return messages.length
}

async function cycle(): Promise<number> {
  await broker.send('q', hundred)
  return await ack((await receive(100)).messages)
}

/** A receiver has looked, and waits, before the next message is sent. */
async function handOver(): Promise<number> {
  const waiting = receive(1)
  await sleep(2)
  await broker.send('q', [message])
  return await ack((await waiting).messages)
}

let behind = 0
/** A few messages of each key always wait behind the one that is out. */
async function keyed(): Promise<number> {
  if (behind < 2000) {
    behind += hundred.length
    await broker.send(
      'q',
      hundred.map((each, at) => ({ ...each, key: `k${at % 8}` })),
    )
  }
  const count = await ack((await receive(100)).messages)
  behind -= count
  return count
}

const { callers, call } = {
  cycle: { callers: 4, call: cycle },
  'hand-over': { callers: 16, call: handOver },
  keyed: { callers: 16, call: keyed },
}[kind]
const startMs = performance.now()
const buckets: number[] = []
await Promise.all(
  Array.from({ length: callers }, async () => {
    while (performance.now() - startMs < seconds * 1000) {
      const count = await call()
      const bucket = Math.floor((performance.now() - startMs) / 1000 / bucketS)
      buckets[bucket] = (buckets[bucket] ?? 0) + count
    }
  }),
)
const rates = buckets.slice(0, Math.floor(seconds / bucketS)).map((count) => Math.round(count / bucketS))
console.log(`${kind}: messages/s while vacuum is held back, each ${bucketS} s: ${rates.join(' ')}`)
console.log(
  `${buckets.reduce((sum, count) => sum + count, 0)} messages; last to first: ${((rates.at(-1) ?? 0) / (rates[0] ?? 1)).toFixed(2)}`,
)

// Only a lease statement updates a message: what was handed over was stored leased.
await sleep(1500)
const [written] = await holder<{ inserted: number; updated: number }[]>`
  select n_tup_ins::int as inserted, n_tup_upd::int as updated from pg_stat_user_tables where relname = 'messages'`
if (written) console.log(`handed over: ${Math.round((1 - written.updated / written.inserted) * 100)} %`)

await pinned`rollback`
pinned.release()
await holder.end()
await close()
process.exit(0)
