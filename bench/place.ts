/** Where a benchmark takes place: an embedded Postgres with its default durability, a broker on it, and messages. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type Broker, createBroker } from '../src/broker/index.ts'
import type { NewMessage } from '../src/model/index.ts'
import { startEmbedded } from '../src/store/embedded/index.ts'
import { migrate } from '../src/store/index.ts'
import { createTelemetry } from '../src/telemetry/index.ts'

export type Place = {
  databaseUrl: string
  broker: Broker
  /** What `close` is to do first, the latest before the earlier. */
  closing: (() => Promise<unknown>)[]
  close(): Promise<void>
}

export async function openPlace(): Promise<Place> {
  const dir = mkdtempSync(path.join(tmpdir(), 'postern-bench-'))
  chmodSync(dir, 0o755)
  const postgres = await startEmbedded({ dir, log: () => {} })
  await migrate(postgres.url)
  const broker = await startBroker(postgres.url)
  const closing: Place['closing'] = []
  return {
    databaseUrl: postgres.url,
    broker,
    closing,
    async close() {
      for (const step of closing.reverse()) await step()
      await broker.stop(5000)
      await postgres.stop()
      rmSync(dir, { recursive: true, force: true })
    },
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

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
