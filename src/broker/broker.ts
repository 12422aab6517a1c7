/** Joins the broker's parts behind its door. */
import { type Loop, loop, monotonicMs, sleep } from '../base/index.ts'
import { BrokerError, type Observe, receiptCodec, type Tracing, unobserved } from '../model/index.ts'
import * as store from '../store/index.ts'
import { type Appended, connect, type FreedKey, type LeasedRow, type MovedRow } from '../store/index.ts'
import { createAccess } from './access.ts'
import { countCache, createAdmin } from './admin.ts'
import { createLetterAdmin } from './admin_letters.ts'
import { createScheduleAdmin } from './admin_schedules.ts'
import { createSubscriptionAdmin } from './admin_subscriptions.ts'
import { createTopicAdmin } from './admin_topics.ts'
import { createCluster } from './cluster.ts'
import { createReceive, endingLeases } from './deliver.ts'
import { createDesk, type DeskParts } from './desk.ts'
import { createDiagnosis } from './diagnosis.ts'
import { createElector } from './elect.ts'
import { answerHeld, createExplainer } from './explain.ts'
import { createHandOver } from './handover.ts'
import { createHolds, forgetEnded } from './holds.ts'
import { createMarks } from './marks.ts'
import { createPresence } from './presence.ts'
import { createPublisher } from './publish.ts'
import { createQueues } from './queues.ts'
import { createRates } from './rates.ts'
import { createReceiver, queueDeleted, type Receiver } from './receive.ts'
import { type Scheduler, startScheduler } from './schedules.ts'
import { createSettler } from './settle.ts'
import { startTasks, type Tasks } from './tasks.ts'
import { createTopics } from './topics.ts'
import type { Broker } from './types.ts'
import { startUpkeep, type Upkeep } from './upkeep.ts'
import { createWatch, observeLeased, observeMoved } from './watch.ts'
import { createWriter } from './write.ts'

export type BrokerOptions = {
  databaseUrl: string
  /** For LISTEN, when `databaseUrl` leads through a pooler; null: the same, or none without prepared statements. */
  listenUrl: string | null
  /** Connections to Postgres, besides the one that listens. */
  pool: number
  /** false behind PgBouncer in transaction mode. */
  prepare: boolean
  /** Whether this gateway also does what nobody asks for: expiry, promotion, retention. */
  upkeep: boolean
  /** Receives that may wait at the same time. */
  maxWaiting: number
  /** What is told of all that happens; nobody, when it is absent. */
  observe?: Observe
  /** Absent: no traces. */
  tracing?: Tracing | undefined
  log(event: string, fields?: Record<string, unknown>): void
}

const sweepHeardMs = 5_000
const sweepUnheardMs = 1_000

/** A broker on a migrated database. `start` before use; `stop` ends it for good. */
export function createBroker(options: BrokerOptions): Broker {
  const { log, observe = unobserved, tracing } = options
  const db = connect(options)
  let codec: ReturnType<typeof receiptCodec> | undefined
  let upkeep: Upkeep | undefined
  let scheduler: Scheduler | undefined
  let tasks: Tasks | undefined
  let recording: Loop | undefined

  const listenUrl = options.listenUrl ?? (options.prepare ? options.databaseUrl : null)
  const cluster = createCluster({
    db,
    listenUrl,
    log,
    on: {
      appended: (item) => heardAppended(item),
      rung: (queueId) => receiver.ring(queueId),
      queueChanged: (queueId) => void recheck(queueId),
      keysChanged: () => access.forget(),
      subscriptionChanged: (subscription) => parts.changed(subscription),
      subscriptionsFree: () => parts.free(),
      asked: (question) => answerHeld(holds, question),
      lost() {
        marks.reset()
        queues.clear()
        access.forget()
        receiver.ringAll()
      },
    },
  })
  const presence = createPresence({ db, cluster, log })
  const marks = createMarks(() => (cluster.listening() ? sweepHeardMs : sweepUnheardMs), observe.swept)
  const queues = createQueues(db, cluster.listening)
  const access = createAccess(db)
  const rates = createRates()
  const holds = createHolds(rates.worked)
  const receiver = createReceiver({
    db,
    marks,
    cluster,
    heldBack(queueId) {
      const queue = queues.known(queueId)
      return queue === null || queue.paused || queue.maxLeased !== null
    },
    giveBack: (taken) => endLeases(taken, 'return'),
    bury: (taken) => endLeases(taken, 'nack'),
    leased(rows, leaseMs) {
      elect(rows.flatMap(turnOver))
      observeLeased(observe, rows, leaseMs)
    },
    looked: (receivers) => observe.gathered('lease', receivers),
    maxWaiting: options.maxWaiting,
    log,
  })
  const elector = createElector({
    db,
    appended: (item) => ownAppended(item),
    scheduled: (inMs) => upkeep?.dueIn(inMs),
    log,
  })
  const { elect } = elector
  const settler = createSettler({
    db,
    elect,
    queues,
    codec: () => receipts(),
    moved,
    ended: holds.ended,
    settled(queue, count) {
      rates.settled(queue.id, count)
      if (queue.maxLeased === null) return
      receiver.ring(queue.id)
      cluster.rung(queue.id)
    },
    observe,
  })
  const observedHand: Receiver['handed'] = (waiter, taken) => {
    observeLeased(
      observe,
      taken.map(({ row }) => row),
      waiter.leaseMs,
    )
    receiver.handed(waiter, taken)
  }
  const endLeases = endingLeases(settler, log)
  const handOver = createHandOver({ ...receiver, handed: observedHand }, marks, cluster)
  const { gateway } = cluster
  const stored = {
    appended: (queueId: number, lane: number, position: number) => ownAppended({ queueId, lane, position }),
    scheduled: (inMs: number) => upkeep?.dueIn(inMs),
    sent(queueId: number, count: number) {
      rates.sent(queueId, count)
      observe.sent(queueId, count)
    },
    elect,
    order: elector,
    observe,
    tracing,
  }
  const write = createWriter({ db, queues, handOver, gateway, ...stored })
  const topics = createTopics(db)
  const publish = createPublisher({ db, topics, handOver, gateway, ...stored })
  const parts: DeskParts = createDesk({ db, cluster, forget: marks.forget })

  function receipts(): ReturnType<typeof receiptCodec> {
    if (!codec) throw new BrokerError('unavailable', 'The gateway is starting.', { retryAfterS: 1 })
    return codec
  }

  function heardAppended({ queueId, lane, position }: Appended): void {
    marks.lower(queueId, lane, position)
    receiver.ring(queueId)
  }

  function ownAppended(item: Appended): void {
    heardAppended(item)
    cluster.appended(item)
  }

  function moved(rows: readonly MovedRow[]): void {
    for (const row of rows) {
      if (row.fate === 'ready') ownAppended({ queueId: row.queue_id, lane: row.lane, position: row.position })
      else if (row.fate === 'delayed') upkeep?.dueIn(row.due_ms)
    }
    elect(rows.flatMap(freedBy))
    observeMoved(observe, rows)
  }

  /** A queue that another gateway has changed, resumed or deleted. */
  async function recheck(queueId: number): Promise<void> {
    parts.queueChanged(queueId)
    queues.forget(queueId)
    // While it was paused its lanes seemed empty.
    marks.forget(queueId)
    const queue = await queues.byId(queueId).catch(() => undefined)
    if (queue === null) receiver.close(queueId, queueDeleted())
    else receiver.ring(queueId)
  }

  const receive = createReceive({ db, queues, receiver, holds, endLeases, receipts })
  const counted = countCache(db)
  const queueDeletedHere = (queueId: number): void => {
    queues.forget(queueId)
    receiver.close(queueId, queueDeleted())
    cluster.queueChanged(queueId)
  }
  const queueChangedHere = (queueId: number): void => {
    marks.forget(queueId)
    counted.forget(queueId)
    parts.queueChanged(queueId)
    receiver.ring(queueId)
    cluster.queueChanged(queueId)
  }
  const queueAdmin = createAdmin({
    db,
    queues,
    access,
    counted,
    elect,
    unrecorded: rates.unrecorded,
    queueChanged: queueChangedHere,
    queueDeleted: queueDeletedHere,
    keysChanged: cluster.keysChanged,
  })
  const explainMessage = createExplainer({ db, queues, counted, holds, cluster, unrecorded: rates.unrecorded })
  const diagnosis = createDiagnosis({ db, listening: listenUrl === null ? null : cluster.listening })
  const letterAdmin = createLetterAdmin({
    db,
    queues,
    appended: ownAppended,
    scheduled: (inMs) => upkeep?.dueIn(inMs),
    elect,
    queueChanged: queueChangedHere,
    tasked: () => tasks?.nudge(),
  })
  const topicAdmin = createTopicAdmin({ db, topics, queueDeleted: queueDeletedHere })
  const subscriptionAdmin = createSubscriptionAdmin({
    db,
    counted,
    appended: ownAppended,
    elect,
    changed: cluster.subscriptionChanged,
    free: cluster.subscriptionsFree,
    queueDeleted: queueDeletedHere,
  })
  const watch = createWatch({ db, counted, cluster, receiver })
  const told = { gateway, ...stored }
  const scheduleAdmin = createScheduleAdmin({ db, told, changed: () => scheduler?.changed() })

  return {
    send: (queue, messages, more) => write(queue, messages, more?.atomic ?? false),
    publish,
    receive,
    settle: settler.settle,
    authenticate: access.authenticate,
    admin: {
      ...queueAdmin,
      explainMessage,
      diagnosis,
      ...letterAdmin,
      ...topicAdmin,
      ...subscriptionAdmin,
      ...scheduleAdmin,
    },
    desk: parts.desk,
    watch,
    async start() {
      codec = receiptCodec(await store.sharedSecret(db, 'receipts'))
      await presence.start()
      await cluster.start()
      await presence.listen()
      if (options.upkeep) {
        const leasesExpired = (rows: readonly MovedRow[]) => {
          for (const row of rows) observe.leaseExpired(row.freed_queue_id)
        }
        upkeep = startUpkeep({ db, appended: ownAppended, moved, leasesExpired, elect, log })
        scheduler = startScheduler({ db, told, observe, log })
        tasks = startTasks({ db, gateway, appended: ownAppended, sent: rates.sent, elect, log })
      }
      recording = loop(
        async () => {
          const some = rates.take()
          if (some.length > 0) await store.recordRates(db, cluster.gateway, some)
          await forgetEnded(db, holds)
          return 5_000
        },
        { retryMs: 5_000, failed: (error) => log('recording rates failed', { error }) },
      )
    },
    async stop(drainMs, edges) {
      const untilMs = monotonicMs() + drainMs
      await receiver.stop()
      while (receiver.waiting() > 0 && monotonicMs() < untilMs) await sleep(10)
      await edges
      await Promise.all([upkeep?.stop(), scheduler?.stop(), tasks?.stop(), recording?.stop()])
      await cluster.stop()
      await presence.stop()
      await db.close()
    },
  }
}

/** On a fair queue a key's turn is over with the lease. */
const turnOver = ({ queue_id: queueId, key, turn }: LeasedRow): FreedKey[] =>
  turn === null || key === null ? [] : [{ queueId, key, after: turn }]

const freedBy = ({ freed_key: key, freed_queue_id: queueId, freed_chain: after }: MovedRow): FreedKey[] =>
  key === null ? [] : [{ queueId, key, after }]
