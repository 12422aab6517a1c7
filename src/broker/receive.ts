/**
 * Receiving: whoever asks takes a place in its queue's line; one lease statement looks for all who may find something, in as
 * many queues as there are, and what it brings is dealt out in the order of the places. A long poll holds no connection.
 */
import { type Loop, loop, monotonicMs, randomToken, soon, worthBeside } from '../base/index.ts'
import { BrokerError, messageLimits, type Queue } from '../model/index.ts'
import type { Database, LeaseClaim, LeasedRow, Runs } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Cluster } from './cluster.ts'
import { beside } from './gathering.ts'
import { createLines, type Line, type Taken, type Waiter } from './lines.ts'
import type { Flight, Marks } from './marks.ts'

const statementsAtOnce = 2
const rowsPerQueue = 1000
const rowsPerStatement = 2000
const queuesPerStatement = 500
const netEveryMs = 500

export type Asked = {
  max: number
  /** On a keyed queue: at most so many of one key. */
  perKey: number
  waitMs: number
  leaseMs: number
  /** The subscription it is for; 0: nobody in particular. */
  fence: number
  /** Of a receive that may be retried: what tells it from others. Answered with nothing when another has leased for it. */
  hash: Buffer | null
  signal: AbortSignal
}

export type Receiver = {
  receive(queue: Queue, asked: Asked): Promise<Taken[]>
  /** Something may be ready in this queue. */
  ring(queueId: number): void
  ringAll(): void
  /** The queue is gone: its receivers are answered. */
  close(queueId: number, error: Error): void
  /** Idle receivers of a queue to which new messages may be handed, in order. They are busy until `handed`. */
  reserve(queueId: number, messages: number): Waiter[]
  /** What a reserved receiver got; nothing sends it back to its place. */
  handed(waiter: Waiter, taken: Taken[]): void
  waiting(): number
  /** How many wait, by queue. */
  waitingByQueue(): [queueId: number, receives: number][]
  stop(): Promise<void>
}

type Options = {
  db: Database
  marks: Marks
  cluster: Cluster
  /** A queue that may give less than it has: paused, or with a bound on its leases. */
  heldBack(queueId: number): boolean
  /** Leases that nobody is left to take: ready again at once, uncounted. */
  giveBack(taken: readonly Taken[]): void
  /** Leased, but its time is up or its attempts are spent. */
  bury(taken: readonly Taken[]): void
  /** These were leased, so that on a fair queue the next of their keys may take their turn. */
  leased(rows: readonly LeasedRow[], leaseMs: number): void
  /** A lease statement looks for so many receivers. */
  looked?(receivers: number): void
  /** Receives that may wait at the same time; subscriptions are not counted out. */
  maxWaiting: number
  log(event: string, fields?: Record<string, unknown>): void
}

/** One queue's part in one lease statement. */
type Share = {
  line: Line
  waiters: Waiter[]
  limit: number
  fence: number
  runs: Runs | null
  claim: LeaseClaim | null
  flight: Flight
}
const nothing = { rows: [], closed: new Set<number>() }

export function createReceiver(options: Options): Receiver {
  const { db, marks, cluster, heldBack, giveBack, bury, leased, maxWaiting, log } = options
  const lines = createLines()
  const hungry = new Set<number>()
  let running = 0
  let pumping = false
  /** Since the last statement was put together: for how many messages and since when somebody asks. */
  let wanted = 0
  let wantedSinceMs = 0
  const isWorthIt = worthBeside(beside, pump)
  let stopped = false

  function pumpSoon(): void {
    if (pumping) return
    pumping = true
    soon(pump)
  }

  function pump(): void {
    pumping = false
    while (running < statementsAtOnce && hungry.size > 0) {
      if (running > 0 && !isWorthIt(wanted, wantedSinceMs)) return
      const { shares, leaseMs } = gather()
      // What did not fit into this statement is worth another at once.
      wanted = hungry.size > 0 ? beside.weight : 0
      wantedSinceMs = monotonicMs()
      if (shares.length === 0) continue
      running++
      void look(shares, leaseMs).finally(() => {
        running--
        if (hungry.size > 0) pumpSoon()
      })
    }
  }

  /**
   * Receivers who want the same length of lease, and of each queue those of one subscription, or one that may be retried; whoever does
   * not fit stays hungry for the next statement. Nobody looks twice for one ring, so the others' turn comes.
   */
  function gather(): { shares: Share[]; leaseMs: number } {
    const shares: Share[] = []
    let leaseMs = 0
    let rows = 0
    for (const queueId of [...hungry]) {
      if (shares.length >= queuesPerStatement || rows >= rowsPerStatement) break
      hungry.delete(queueId)
      const line = lines.of(queueId)
      if (!line) continue
      const waiters: Waiter[] = []
      let limit = 0
      for (const waiter of line.waiters) {
        if (waiter.busy || (waiter.heard === line.rings && !waiter.fresh)) continue
        leaseMs ||= waiter.leaseMs
        const before = waiters[0] ?? waiter
        const isAlone = waiter.claim !== null || before.claim !== null
        const alike = waiter.fence === before.fence && (waiter.perKey === null || sameRuns(waiter, before))
        const fits = waiter.leaseMs === leaseMs && alike && limit < rowsPerQueue
        if (!fits || (isAlone && shares.length + waiters.length > 0)) {
          hungry.add(queueId)
          break
        }
        waiters.push(waiter)
        limit += waiter.max
      }
      const [first] = waiters
      if (!first) continue
      const isNew = waiters.some((waiter) => waiter.fresh)
      const all = isNew && cluster.hasPeers()
      if (isNew) cluster.concerned('looked', queueId)
      for (const waiter of waiters) {
        waiter.busy = true
        waiter.fresh = false
        waiter.heard = line.rings
      }
      limit = Math.min(limit, rowsPerQueue)
      rows += limit
      const { fence, claim, max, perKey } = first
      const runs = perKey === null ? null : { receivers: waiters.length, max, perKey }
      shares.push({ line, waiters, limit, fence, runs, claim, flight: marks.look(queueId, all) })
      if (claim) break
    }
    return { shares, leaseMs }
  }

  async function look(shares: readonly Share[], leaseMs: number): Promise<void> {
    const token = randomToken()
    const asked = shares.filter((share) => share.flight.lanes.length > 0)
    try {
      const requests = asked.map(({ flight, limit, fence, runs }) => ({
        queueId: flight.queueId,
        lanes: flight.lanes,
        limit,
        fence,
        runs,
      }))
      // With a bound on leases the order of locks must be everybody's.
      requests.sort((a, b) => a.queueId - b.queueId)
      if (asked.length > 0) options.looked?.(asked.reduce((sum, { waiters }) => sum + waiters.length, 0))
      const { rows, closed } =
        requests.length === 0
          ? nothing
          : await store.lease(db, requests, token, leaseMs, messageLimits.answerBytes, cluster.gateway, asked[0]?.claim)
      deal(shares, rows, closed, token)
      leased(rows, leaseMs)
    } catch (error) {
      for (const { flight, waiters } of shares) {
        marks.failed(flight)
        for (const waiter of waiters) refuse(waiter, error)
      }
    }
  }

  function deal(
    shares: readonly Share[],
    rows: readonly LeasedRow[],
    closed: ReadonlySet<number>,
    token: number,
  ): void {
    const cut = rows[0]?.cut === true
    const byQueue = new Map<number, LeasedRow[]>()
    for (const row of rows) {
      const list = byQueue.get(row.queue_id)
      if (list) list.push(row)
      else byQueue.set(row.queue_id, [row])
    }
    const unfit: Taken[] = []
    for (const share of shares) {
      const got = byQueue.get(share.line.queueId) ?? []
      // What follows the first of its key was nowhere in the lanes.
      const heads = share.runs ? got.filter((row) => row.follows === null) : got
      const full = heads.length >= share.limit
      if (share.claim && closed.has(share.line.queueId)) {
        leftBehind(share.flight)
        for (const waiter of share.waiters) finish(waiter)
        ring(share.line.queueId)
        continue
      }
      if (share.claim && got.length > 0) share.claim.token = token
      if (cut) leftBehind(share.flight)
      else if (closed.has(share.line.queueId)) marks.failed(share.flight)
      else marks.landed(share.flight, heads, full || heldBack(share.line.queueId))
      const fit: Taken[] = []
      for (const row of got) (row.expired || row.exhausted ? unfit : fit).push({ row, token })
      const more = full || cut || fit.length < got.length
      serve(share, fit, more)
    }
    if (unfit.length > 0) bury(unfit)
  }

  /** Rows that were locked but not taken: others passed over them at that moment. */
  function leftBehind(flight: Flight): void {
    marks.failed(flight)
    for (const { lane, mark } of flight.lanes) cluster.appended({ queueId: flight.queueId, lane, position: mark + 1 })
  }

  function serve(share: Share, fit: readonly Taken[], more: boolean): void {
    let next = 0
    for (const waiter of share.waiters) {
      waiter.busy = false
      const mine = fit.slice(next, endOfPortion(fit, next + waiter.max))
      if (share.line.waiters.has(waiter) && mine.length > 0) {
        next += mine.length
        lines.leave(waiter)
        waiter.done(mine)
      } else if (waiter.due && !more) finish(waiter)
    }
    if (lines.of(share.line.queueId)) cluster.concerned('waits', share.line.queueId)
    // What was leased for one that may be retried stays so: the retry gets it.
    if (next < fit.length && !share.claim) giveBack(fit.slice(next))
    if (more) ring(share.line.queueId)
    // It rang while they looked: the look may have come too early.
    else if (share.waiters.some((waiter) => waiter.heard < share.line.rings)) again(share.line.queueId)
  }

  function finish(waiter: Waiter): void {
    lines.leave(waiter)
    waiter.done([])
  }

  function refuse(waiter: Waiter, error: unknown): void {
    waiter.busy = false
    lines.leave(waiter)
    waiter.fail(error)
  }

  function ring(queueId: number): void {
    const line = lines.of(queueId)
    if (!line) return
    line.rings++
    again(queueId)
  }

  function again(queueId: number, messages = 1): void {
    if (wanted === 0) wantedSinceMs = monotonicMs()
    wanted += messages
    hungry.add(queueId)
    pumpSoon()
  }

  function ringAll(): void {
    for (const line of lines.all()) ring(line.queueId)
  }

  function receive(queue: Queue, asked: Asked): Promise<Taken[]> {
    const { max, perKey, waitMs, leaseMs, fence, hash, signal } = asked
    return new Promise((resolve, reject) => {
      if (signal.aborted) return resolve([])
      if (fence === 0 && lines.size() >= maxWaiting) return reject(tooManyWait())
      const waiter: Waiter = {
        queueId: queue.id,
        max,
        perKey: queue.order === 'keyed' ? Math.min(max, perKey) : null,
        leaseMs,
        fence,
        claim: hash && { hash, token: 0 },
        heard: 0,
        fresh: true,
        busy: false,
        due: false,
        done: resolve,
        fail: reject,
      }
      lines.join(waiter, stopped ? 0 : waitMs, signal, () => {
        // Whoever has gone leaves at once, even in the middle of a statement: what it brings is given to the next.
        if (signal.aborted || (!waiter.busy && !waiter.fresh)) finish(waiter)
      })
      again(queue.id, max)
    })
  }

  /** The slow look behind the rings: whatever was not announced is found by it. */
  const net: Loop = loop(
    async () => {
      for (const { queueId } of lines.all()) {
        cluster.concerned('waits', queueId)
        if (marks.sweepDue(queueId)) ring(queueId)
      }
      return netEveryMs
    },
    { retryMs: netEveryMs, failed: (error) => log('looking around failed', { error }) },
  )

  function reserve(queueId: number, messages: number): Waiter[] {
    if (hungry.has(queueId)) return []
    const reserved: Waiter[] = []
    let room = 0
    for (const waiter of lines.of(queueId)?.waiters ?? []) {
      if (room >= messages) break
      // What is handed over has a token that others share.
      if (waiter.busy || waiter.fresh || waiter.claim) continue
      waiter.busy = true
      reserved.push(waiter)
      room += waiter.max
    }
    return reserved
  }

  function handed(waiter: Waiter, taken: Taken[]): void {
    waiter.busy = false
    const here = lines.of(waiter.queueId)?.waiters.has(waiter) === true
    if (taken.length > 0 && here) {
      lines.leave(waiter)
      waiter.done(taken)
    } else {
      if (taken.length > 0) giveBack(taken)
      if (here && waiter.due) finish(waiter)
      ring(waiter.queueId)
    }
  }

  return {
    receive,
    ring,
    ringAll,
    close(queueId, error) {
      for (const waiter of [...(lines.of(queueId)?.waiters ?? [])]) refuse(waiter, error)
      marks.forget(queueId)
    },
    reserve,
    handed,
    waiting: lines.size,
    waitingByQueue: () => [...lines.all()].map((line) => [line.queueId, line.waiters.size]),
    async stop() {
      stopped = true
      await net.stop()
      for (const line of [...lines.all()])
        for (const waiter of [...line.waiters])
          if (!waiter.busy) finish(waiter)
          else waiter.due = true
    },
  }
}

const sameRuns = (a: Waiter, b: Waiter): boolean => a.max === b.max && a.perKey === b.perKey

/** Where to cut what one receiver gets: a run is not parted. */
function endOfPortion(fit: readonly Taken[], wanted: number): number {
  let end = wanted
  while (end < fit.length && fit[end]?.row.follows !== null) end--
  return end
}

const tooManyWait = (): BrokerError =>
  new BrokerError('unavailable', 'Too many receives wait at this gateway.', { retryAfterS: 1 })

/** The error for receivers of a queue that was deleted while they waited. */
export const queueDeleted = (): BrokerError => new BrokerError('queue_not_found', 'The queue was deleted.')
