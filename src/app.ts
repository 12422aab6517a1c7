/** The only place where the parts are joined: database, broker, edges; started in this order and stopped in the other. */
import { monotonicMs, sleep } from './base/index.ts'
import { type Broker, createBroker } from './broker/index.ts'
import type { Config } from './config.ts'
import { createHttp, type Listening, listen } from './http/index.ts'
import type { Log } from './log.ts'
import type { Embedded } from './store/embedded/index.ts'
import { migrate } from './store/index.ts'

export const version = '0.1.0'

export type App = {
  /** Answers a request without a port; after `start`. */
  fetch(request: Request): Promise<Response>
  start(): Promise<{ url: string; dataDir: string | null }>
  /** Refuses new work, answers waiting polls, finishes the rest within the drain time, closes. */
  stop(): Promise<void>
}

const databasePatienceMs = 30_000

export function createApp(config: Config, { log }: { log: Log }): App {
  let embedded: Embedded | undefined
  let broker: Broker | undefined
  let listening: Listening | undefined
  let fetch: App['fetch'] | undefined
  let stopping: Promise<void> | undefined

  async function databaseUrl(): Promise<string> {
    if (config.databaseUrl !== null) return config.databaseUrl
    // Not even loaded when there is a database.
    const { startEmbedded } = await import('./store/embedded/index.ts')
    embedded = await startEmbedded({ dir: config.dataDir, log: log.event })
    return embedded.url
  }

  /** A database that starts at the same time may take a moment. */
  async function migrated(url: string): Promise<void> {
    const untilMs = monotonicMs() + databasePatienceMs
    for (;;) {
      try {
        const applied = await migrate(url)
        if (applied > 0) log.event('migrated', { applied })
        return
      } catch (error) {
        if (monotonicMs() > untilMs) throw error
        log.event('waiting for the database', { error })
        await sleep(1000)
      }
    }
  }

  async function start(): Promise<{ url: string; dataDir: string | null }> {
    const url = await databaseUrl()
    await migrated(url)
    broker = createBroker({
      databaseUrl: url,
      listenUrl: config.databaseListenUrl,
      pool: config.databasePool,
      prepare: config.databasePrepare,
      upkeep: config.roles.includes('upkeep'),
      log: log.event,
    })
    await broker.start()
    const http = createHttp({
      broker,
      rootKey: config.rootKey,
      open: config.open,
      host: config.host,
      maxBodyBytes: config.maxBodyBytes,
      maxWaitMs: config.maxWaitMs,
      version,
      log: log.line,
    })
    fetch = async (request) => http.fetch(request)
    listening = await listen(http, { host: config.host, port: config.port, log: log.line })
    return { url: listening.url, dataDir: embedded?.dataDir ?? null }
  }

  async function drainAndClose(): Promise<void> {
    const answered = listening?.stop()
    const drained = broker?.stop(config.drainMs)
    await Promise.race([Promise.all([answered, drained]), sleep(config.drainMs)])
    await listening?.close()
    await drained
    await embedded?.stop()
  }

  return {
    fetch: (request) => (fetch ? fetch(request) : Promise.reject(new Error('The app is not started.'))),
    start,
    stop() {
      stopping ??= drainAndClose()
      return stopping
    },
  }
}
