/** Where a benchmark takes place: an embedded Postgres with its default durability, a broker on it, a meter, and messages. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import postgres from 'postgres'
import { type Broker, createBroker } from '#src/broker/index.ts'
import type { NewMessage } from '#src/model/index.ts'
import { startEmbedded } from '#src/store/embedded/index.ts'
import { migrate } from '#src/store/index.ts'
import { createTelemetry } from '#src/telemetry/index.ts'
import { createMeter, type Meter } from './meter.ts'

export type Place = {
  /** A folder that goes with the place. */
  dir: string
  databaseUrl: string
  /** For statements of the benchmark's own; not for what is measured. */
  sql: postgres.Sql
  meter: Meter
  /** Until it retires. */
  broker: Broker
  /** Its upkeep and its share of the gateways' talk end, for what is to be measured without it. */
  retireBroker(): Promise<void>
  /** What `close` is to do first, the latest before the earlier. */
  closing: (() => Promise<unknown>)[]
  /** An empty database of its own on the same server; goes with the place, or when it is dropped. */
  database(name: string): Promise<{ url: string; drop(): Promise<unknown> }>
  /** Once; never throws. */
  close(): Promise<void>
}

export async function openPlace(): Promise<Place> {
  const dir = mkdtempSync(path.join(tmpdir(), 'postern-bench-'))
  chmodSync(dir, 0o755)
  const server = await startEmbedded({ dir, log: () => {} })
  const url = server.url
  await migrate(url)
  const broker = await startBroker(url)
  const sql = postgres(url, { max: 2, onnotice: () => {} })
  const retireBroker = once(() => broker.stop(5000))
  const closing: Place['closing'] = [
    async () => rmSync(dir, { recursive: true, force: true }),
    () => server.stop(),
    () => sql.end({ timeout: 1 }),
    retireBroker,
  ]
  const close = once(() => closeAll(closing))
  async function database(name: string) {
    await sql`create database ${sql(name)}`
    const own = new URL(url)
    own.pathname = `/${name}`
    async function drop(): Promise<void> {
      // Whose connections are cut may take that for a failure: they are given time to go by themselves.
      for (let tries = 0; tries < 100; tries++) {
        const there =
          await sql`select 1 from pg_stat_activity where datname = ${name} and backend_type = 'client backend'`
        if (there.length === 0) break
        await sleep(50)
      }
      await sql`drop database if exists ${sql(name)} with (force)`
    }
    return { url: own.href, drop }
  }
  return {
    dir,
    databaseUrl: url,
    sql,
    meter: createMeter(sql, server.pid),
    broker,
    retireBroker,
    closing,
    database,
    close,
  }
}

/** A step that hangs must not keep the others from being done. */
const closingStepMs = 20_000

/** The latest before the earlier, each once. Never throws. */
export async function closeAll(closing: Place['closing']): Promise<void> {
  for (let step = closing.pop(); step; step = closing.pop())
    await within(closingStepMs, step()).catch((error: unknown) => console.error('While stopping:', error))
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const done = new AbortController()
  const late = sleep(ms, done.signal).then(() => Promise.reject(new Error(`not done after ${ms} ms`)))
  try {
    await Promise.race([work, late])
  } finally {
    done.abort()
    late.catch(() => {})
  }
}

export const telemetry = createTelemetry({ version: 'bench', labelsMost: 200 })

/** One gateway's broker. */
export async function startBroker(databaseUrl: string): Promise<Broker> {
  const broker = createBroker({
    databaseUrl,
    listenUrl: null,
    pool: 10,
    prepare: true,
    upkeep: true,
    maxWaiting: 50_000,
    // As every gateway has it.
    observe: telemetry.observe,
    log: () => {},
  })
  await broker.start()
  return broker
}

export const messageOf = (body: Buffer, headers: NewMessage['headers'] = null): NewMessage => ({
  body,
  contentType: 'text/plain',
  headers,
  key: null,
  priority: 5,
  delayMs: null,
  deliverAtMs: null,
  ttlMs: null,
  dedupId: null,
})

export const body = Buffer.alloc(200, 'x')
export const message = messageOf(body)

/** What `settle` asks of a caller who may do everything. */
export const may = { queue: null, may: () => true }

/** `count` messages of 200 bytes, 500 in a batch, four batches at once. */
export async function fill(broker: Broker, queue: string, count: number): Promise<void> {
  const batch = Array.from({ length: 500 }, () => message)
  let left = Math.ceil(count / batch.length)
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      while (left-- > 0) await broker.send(queue, batch)
    }),
  )
}

/** Made when it is first asked for. */
export function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => {
    made ??= make()
    return made
  }
}

/** Ends early, without an error, when the signal aborts. */
export const sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal?.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
  })
