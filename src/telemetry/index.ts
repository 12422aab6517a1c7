/**
 * The edge that watches: counts what the parts tell it, asks them for the rest when somebody reads, and prints both for Prometheus. A
 * database that is slow or away delays no reading for long: then what it would say is left out, or is as of before.
 */
import { totalmem } from 'node:os'
import { monotonicMs, sleep } from '../base/index.ts'
import type { QueueState, Watch } from '../broker/index.ts'
import type { Observe } from '../model/index.ts'
import { createHooks } from './hooks.ts'
import { createLabels, type Labels, other } from './labels.ts'
import { createSheet, type Sheet } from './sheet.ts'
import { createTallies } from './tallies.ts'

export { type Metric, metrics, metricsTable } from './metrics.ts'

/** What is asked when somebody reads. */
export type Sources = {
  broker: Watch
  /** The subscriptions that this gateway delivers for. */
  webhooks(): { subscription: string; underWay: number; circuitOpen: boolean }[]
}

export type Telemetry = {
  observe: Observe
  /** From now on these are asked. */
  attach(sources: Sources): void
  /** A batch of spans was lost. */
  exportFailed(): void
  /** The metrics in Prometheus's text format. */
  scrape(): Promise<{ type: string; text: string }>
}

type Options = {
  version: string
  /** Queues, and subscriptions, that have a label of their own. */
  labelsMost: number
  /** Tests are less patient. */
  patienceMs?: number
}

/** Prometheus gives up after ten seconds; a slow database is no reason to lose the rest. */
const standardPatienceMs = 3_000
/** How often a queue that nobody knows is looked for in the list, which may be a little old, before it counts as gone. */
const mostMisses = 3

export function createTelemetry({ version, labelsMost, patienceMs = standardPatienceMs }: Options): Telemetry {
  const sheet = createSheet()
  const queueLabels = createLabels(labelsMost)
  const subscriptionLabels = createLabels(labelsMost)
  const tallies = createTallies()
  let misses = new Map<number, number>()
  let sources: Sources | undefined
  let listed: { queues: QueueState[]; countedMs: number } | undefined
  sheet.cell('postern_info', version).value = 1
  sheet.cell('postern_process_memory_limit_bytes').value = memoryLimit()
  const failedExports = sheet.cell('postern_trace_exports_failed_total')

  /** Never throws: what was known before is then what there is. */
  async function counted(broker: Watch): Promise<void> {
    try {
      const { queues, ageMs } = await broker.queues()
      listed = { queues, countedMs: monotonicMs() - ageMs }
    } catch {}
  }

  /** What was counted of queues that are not in the list yet waits; of those that are not in it any more, it is `other`. */
  function pourTallies(names: ReadonlyMap<number, string>): void {
    const missing = new Map<number, number>()
    tallies.pour(sheet, (queueId) => {
      const times = (misses.get(queueId) ?? 0) + 1
      const name = names.get(queueId) ?? (times < mostMisses ? null : other)
      if (name === null) missing.set(queueId, times)
      return name
    })
    misses = missing
  }

  async function askDatabase({ broker }: Sources): Promise<void> {
    const counting = counted(broker)
    const state = await inTime(broker.database(), patienceMs)
    sheet.cell('postern_database_up').value = state ? 1 : 0
    await inTime(counting, state ? patienceMs : 0)
    sheet.replace('postern_database_oldest_transaction_seconds', state ? [[[], state.oldestTransactionS]] : [])
    sheet.replace('postern_database_dead_rows', labelled(state?.deadRows ?? null))
    const none = { enabled: 0, requested: 0, gone: 0, failing: 0 }
    sheet.replace('postern_webhook_subscriptions', labelled(state && { ...none, ...state.subscriptions }))
    // Counts that may be long out of date would be taken for true.
    sayQueues(sheet, queueLabels, state && listed ? listed.queues : [])
    sheet.replace('postern_queue_counts_age_seconds', listed ? [[[], (monotonicMs() - listed.countedMs) / 1000]] : [])
  }

  function sayHere({ broker, webhooks }: Sources): void {
    const { listening, peers, pools, waiting } = broker.here()
    sheet.cell('postern_database_listening').value = listening ? 1 : 0
    sheet.cell('postern_peers').value = peers
    for (const { name: pool, size: connections, pending: statements } of pools) {
      sheet.cell('postern_database_pool_connections', pool).value = connections
      sheet.cell('postern_database_pool_statements', pool).value = statements
    }
    const names = new Map(listed?.queues.map(({ id, name }) => [id, queueLabels.of(name)]))
    const receives = waiting.map(([id, count]) => [[names.get(id) ?? other], count] as const)
    sheet.replace('postern_queue_waiting_receives', receives)
    if (listed) pourTallies(names)
    const mine = webhooks()
    if (subscriptionLabels.isFull())
      for (const gone of subscriptionLabels.keep(new Set(mine.map(({ subscription }) => subscription))))
        sheet.remove('subscription', gone)
    const said = mine.map((each) => ({ ...each, labels: [subscriptionLabels.of(each.subscription)] }))
    sheet.replace(
      'postern_webhook_under_way',
      said.map(({ labels, underWay }) => [labels, underWay]),
    )
    sheet.replace(
      'postern_webhook_circuit_open',
      said.map(({ labels, circuitOpen }) => [labels, circuitOpen ? 1 : 0]),
    )
  }

  return {
    observe: { ...tallies.hooks, ...createHooks(sheet, subscriptionLabels) },
    attach(given) {
      sources = given
    },
    exportFailed: () => void failedExports.value++,
    async scrape() {
      if (sources) {
        await askDatabase(sources)
        sayHere(sources)
      }
      return await sheet.print()
    },
  }
}

function sayQueues(sheet: Sheet, labels: Labels, queues: readonly QueueState[]): void {
  if (queues.length > 0)
    for (const gone of labels.keep(new Set(queues.map(({ name }) => name)))) sheet.remove('queue', gone)
  const oldest = new Map<string, number>()
  const messages: [string[], number][] = []
  const paused: [string[], number][] = []
  for (const queue of queues) {
    const label = labels.of(queue.name)
    oldest.set(label, Math.max(oldest.get(label) ?? 0, queue.oldestReadyAgeS))
    paused.push([[label], queue.paused ? 1 : 0])
    for (const state of ['ready', 'delayed', 'leased', 'dead'] as const) messages.push([[label, state], queue[state]])
  }
  sheet.replace('postern_queue_messages', messages)
  sheet.replace('postern_queue_paused', paused)
  sheet.replace(
    'postern_queue_oldest_ready_seconds',
    [...oldest].map(([label, age]) => [[label], age]),
  )
}

const labelled = (values: Record<string, number> | null): [string[], number][] =>
  Object.entries(values ?? {}).map(([label, value]) => [[label], value])

/** null: it failed, or is not there yet; its failure is then nobody's. */
async function inTime<T>(work: Promise<T>, ms: number): Promise<T | null> {
  const done = new AbortController()
  const late = sleep(ms, done.signal).then(() => null)
  return await Promise.race([work.catch(() => null), late]).finally(() => done.abort())
}

/** Where there is no container, Node says something absurdly large, or nothing. */
function memoryLimit(): number {
  const limit = process.constrainedMemory()
  return limit !== undefined && limit > 0 && limit < totalmem() ? limit : totalmem()
}
