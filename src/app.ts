/** The only place where the parts are joined: database, broker, edges; started in this order and stopped in the other. */
import { monotonicMs, sleep } from './base/index.ts'
import { type Broker, createBroker } from './broker/index.ts'
import type { Config } from './config.ts'
import { createHttp, type Listening, listen } from './http/index.ts'
import type { Log } from './log.ts'
import { createPush, type Push } from './push/index.ts'
import type { Embedded } from './store/embedded/index.ts'
import { migrate } from './store/index.ts'
import { createTelemetry, type Telemetry } from './telemetry/index.ts'
import type { Traces } from './tracing/index.ts'
import { version } from './version.ts'

export type App = {
  /** Answers a request without a port; after `start`. */
  fetch(request: Request): Promise<Response>
  /** Once. Throws when a part does not start, or when `stop` is called meanwhile; what has started stays until `stop`. */
  start(): Promise<{ url: string; dataDir: string | null }>
  /** Refuses new work, answers waiting polls, finishes the rest within the drain time, closes. Never throws. */
  stop(): Promise<void>
}

/** What runs. */
type Parts = {
  embedded?: Embedded
  traces?: Traces | undefined
  broker?: Broker
  push?: Push
  listening?: Listening
  fetch?: App['fetch']
}

export function createApp(config: Config, { log }: { log: Log }): App {
  const parts: Parts = {}
  const stopped = new AbortController()
  let starting: Promise<{ url: string; dataDir: string | null }> | undefined
  let stopping: Promise<void> | undefined

  return {
    fetch: (request) =>
      parts.fetch ? parts.fetch(request) : Promise.reject(new Error('The app is not started, or stopped.')),
    start() {
      starting ??= startParts(config, log, parts, stopped.signal)
      return starting
    },
    stop() {
      stopped.abort()
      stopping ??= stopParts(config, log, parts, starting)
      return stopping
    },
  }
}

async function startParts(
  config: Config,
  log: Log,
  parts: Parts,
  stopped: AbortSignal,
): Promise<{ url: string; dataDir: string | null }> {
  if (config.databaseUrl === null) {
    // Not even loaded when there is a database.
    const { startEmbedded } = await import('./store/embedded/index.ts')
    parts.embedded = await startEmbedded({ dir: config.dataDir, log: log.event })
    goOn(stopped)
  }
  const databaseUrl = config.databaseUrl ?? parts.embedded?.url ?? ''
  const applied = await patiently(() => migrate(databaseUrl), log, stopped)
  if (applied) log.event('migrated', { applied })
  goOn(stopped)
  const telemetry = createTelemetry({ version, labelsMost: config.metricsLabelsMost })
  const { observe } = telemetry
  parts.traces = await tracesOf(config, telemetry, log)
  const tracing = parts.traces?.tracing
  const broker = createBroker({
    databaseUrl,
    listenUrl: config.databaseListenUrl,
    pool: config.databasePool,
    prepare: config.databasePrepare,
    upkeep: config.roles.includes('upkeep'),
    maxWaiting: config.maxWaiting,
    observe,
    tracing,
    log: log.event,
  })
  parts.broker = broker
  // It may have gone again since.
  await patiently(broker.start, log, stopped)
  goOn(stopped)
  const { allowPrivateWebhooks: allowPrivate, host, port, maxConnections } = config
  const push = createPush({ broker, allowPrivate, version, observe, tracing, log: log.event })
  parts.push = push
  if (config.roles.includes('push')) push.start()
  telemetry.attach({ broker: broker.watch, webhooks: push.webhooks })
  const metrics = telemetry.scrape
  const http = createHttp({
    ...config,
    broker,
    version,
    testWebhook: push.test,
    metrics,
    observe,
    tracing,
    log: log.line,
  })
  parts.listening = await listen(http, { host, port, maxConnections, log: log.line })
  goOn(stopped)
  parts.fetch = async (request) => http.fetch(request)
  return { url: parts.listening.url, dataDir: parts.embedded?.dataDir ?? null }
}

async function tracesOf(config: Config, telemetry: Telemetry, log: Log): Promise<Traces | undefined> {
  if (config.traceEndpoint === null) return undefined
  // Some hundred modules that nobody else needs.
  const { startTraces } = await import('./tracing/index.ts')
  const { exportFailed } = telemetry
  return startTraces({ endpoint: config.traceEndpoint, version, exportFailed, log: log.event })
}

function goOn(stopped: AbortSignal): void {
  if (stopped.aborted) throw new Error('Stopped while it was starting.')
}

/** Long enough for a Postgres that is started by the same command. */
const databasePatienceMs = 30_000
const databasePauseMs = 1000
/**
 * SQLSTATEs that no waiting cures: not allowed, no such database, a statement that fails; and a lock that is not to be had (55P03), for which a
 * migration has waited long enough itself.
 */
const hopelessStates = /^(?:(?:0A|22|23|28|3D|42)[0-9A-Z]{3}|55P03)$/

/** What needs a database that may not be there yet: tried until it is. undefined: stopped meanwhile. */
async function patiently<T>(work: () => Promise<T>, log: Log, stopped: AbortSignal): Promise<T | undefined> {
  const sinceMs = monotonicMs()
  while (!stopped.aborted) {
    try {
      return await work()
    } catch (error) {
      const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null
      const waitedMs = monotonicMs() - sinceMs
      if (code === null || hopelessStates.test(code)) throw error
      if (waitedMs > databasePatienceMs)
        throw new Error(`Postgres did not answer for 30 s (${code}). Is it running, and is DATABASE_URL right?`, {
          cause: error,
        })
      log.event('waiting for postgres', { error: code, waited_s: Math.round(waitedMs / 1000) })
      await sleep(databasePauseMs, stopped)
    }
  }
  return undefined
}

async function stopParts(config: Config, log: Log, parts: Parts, starting: Promise<unknown> | undefined) {
  const { drainMs } = config
  const untilMs = monotonicMs() + drainMs
  const leftMs = () => Math.max(0, untilMs - monotonicMs())
  const quietly = async (work: Promise<unknown> | undefined): Promise<void> => {
    await work?.catch((error: unknown) => log.event('stopping failed', { error }))
  }

  // What is just starting is stopped as soon as it can be; that it did not start is told to who started it.
  await within(
    leftMs(),
    starting?.catch(() => {}),
  )
  delete parts.fetch
  const answered = quietly(parts.listening?.stop())
  const pushed = quietly(parts.push?.stop(Math.max(0, leftMs() - settleMs)))
  const drained = quietly(parts.broker?.stop(leftMs(), pushed))
  await within(leftMs(), Promise.all([answered, drained]))
  await quietly(parts.listening?.close())
  await within(leftMs() + settleMs, drained)
  await within(leftMs() + settleMs, parts.traces?.stop())
  await quietly(parts.embedded?.stop())
}

/** Of the drain time: what webhooks leave for settling. */
const settleMs = 1_000

/** Waits for the work, but no longer than that. */
async function within(ms: number, work: Promise<unknown> | undefined): Promise<void> {
  const done = new AbortController()
  await Promise.race([work, sleep(ms, done.signal)])
  done.abort()
}
