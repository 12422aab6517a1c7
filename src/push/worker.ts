/**
 * Delivers for one subscription: takes as many messages as may be under way, sends each, and settles it by the verdict on the
 * answer. A gateway owns the subscription, so what is counted here (concurrency, rate, circuit) holds over all gateways.
 */
import { after, monotonicMs, type Pace, pace, random, sleep, type Timer, wallMs } from '../base/index.ts'
import type { Assignment, Broker } from '../broker/index.ts'
import {
  afterFailure,
  afterSuccess,
  attemptsOf,
  BrokerError,
  type Circuit,
  closedCircuit,
  type Delivery,
  inherited,
  type Observe,
  permits,
  type SettleAction,
  type Tracing,
  type Verdict,
  verdictOf,
} from '../model/index.ts'
import { createAhead } from './ahead.ts'
import type { Gathered } from './gather.ts'
import { createReporter } from './reporter.ts'
import { requestFor } from './request.ts'
import type { Sender, SendResult } from './sender.ts'
import { endSpan, spanOf } from './spans.ts'
import { actionFor, atOnce, brokenOff, type Call, logFields, reportOf } from './verdicts.ts'

export type Worker = {
  number: number
  queueId: number
  version(): number
  update(assignment: Assignment): void
  /** Nothing that waits here is sent any more, unless it is leased again. */
  queueChanged(): void
  state(): { subscription: string; underWay: number; circuitOpen: boolean }
  /** What was leased and not yet sent goes back uncounted; what is under way may finish within `graceMs`, then it is broken off. Once more: sooner. */
  stop(graceMs: number): Promise<void>
}

export type WorkerDeps = {
  broker: Pick<Broker, 'receive' | 'desk'>
  gathered: Pick<Gathered, 'settle' | 'record'>
  sender: Sender
  version: string
  /** Whether this gateway may still send for what it owns. */
  alive(): boolean
  /** Bytes of messages that all workers of this gateway hold. */
  held: { bytes: number }
  /** The subscription is disabled; nothing more is to be sent. */
  disabled(number: number): void
  observe?: Pick<Observe, 'attempt'>
  /** Absent: no traces. */
  tracing?: Tracing | undefined
  log(event: string, fields?: Record<string, unknown>): void
}

const pollMs = 50_000
/** Beyond the attempt's own deadline: for what lies between lease and dial, and between answer and settle. */
const leaseMarginMs = 10_000
/** Nothing waits here for longer: somebody else may have it, its time to live goes on, and so does its lease. */
const staleMs = 1_000
const heldBytesLimit = 256 * 1024 * 1024
const retryMs = 500
const paceAheadMs = 10
/** For what the database is still to be told at the end. */
const lastStepMs = 1_000

/** `ageMs`: of the message when it came, by Postgres's clock. */
type Waiting = { delivery: Delivery; sinceMs: number; ageMs: number }

export function createWorker(first: Assignment, deps: WorkerDeps): Worker {
  const { broker, gathered, sender, held } = deps
  let assignment = first
  let circuit: Circuit = inheritedCircuit(first)
  let heldUntilMs = heldBy(first)
  let calledAtMs = calledBy(first)
  let rate = paceOf(first, calledAtMs)
  const waiting: Waiting[] = []
  let underWay = 0
  const ahead = createAhead()
  let receiving: AbortController | undefined
  let timer: Timer | undefined
  let stopped = false
  let endMs = Number.POSITIVE_INFINITY
  let ending: Promise<void> | undefined
  let failing = first.health.failingSince !== null
  const breakOff = new AbortController()
  /** What the database is still to be told. */
  let unfinished = 0
  const reporter = createReporter({
    desk: broker.desk,
    assignment: () => assignment,
    standing: () => ({ circuit, failing, heldUntilMs }),
    tooLong: () => disable('failing', assignment),
    log: deps.log,
  })

  const inMs = (ms: number): void => {
    timer?.cancel()
    timer = after(Math.max(1, ms), pump)
  }

  /** How long nothing at all may be sent; 0: something may. */
  function pauseMs(nowMs: number): number {
    const circuitMs = permits(circuit, nowMs) === 0 ? circuit.untilMs - nowMs : 0
    return Math.max(0, heldUntilMs - nowMs, circuitMs, rate?.waitMs(nowMs) ?? 0)
  }

  function pump(): void {
    if (stopped) return
    const nowMs = monotonicMs()
    if (heldUntilMs > nowMs || permits(circuit, nowMs) === 0) {
      giveBack()
      inMs(pauseMs(nowMs))
      return
    }
    if (stallMs(nowMs) === 0) {
      ahead.stalled()
      giveBack()
    } else returnStale(nowMs)
    while (waiting.length > 0 && underWay < limitAt(nowMs) && (rate?.waitMs(nowMs) ?? 0) === 0) {
      const next = waiting.shift()
      if (!next) break
      void deliver(next, nowMs)
    }
    // What would wait for too long.
    if (isFull(nowMs)) giveBackSome(waiting.splice(ahead.kept(limitAt(nowMs))))
    const wanted = wantedAt(nowMs)
    if (wanted > 0 && !receiving) void take(wanted)
    const pausedMs = pauseMs(nowMs)
    const never = Number.POSITIVE_INFINITY
    const lookMs = Math.min(pausedMs || never, waiting.length > 0 ? staleMs : never, stallMs(nowMs))
    if (lookMs < never) inMs(lookMs)
  }

  const isFull = (nowMs: number): boolean => underWay > 0 && underWay >= limitAt(nowMs)

  /** How long until others are to have what waits here, or is asked for, beyond what may be under way. */
  const stallMs = (nowMs: number): number =>
    isFull(nowMs) && (waiting.length > 0 || receiving) ? ahead.stallMs(nowMs) : Number.POSITIVE_INFINITY

  /** What has waited here for too long goes back. */
  function returnStale(nowMs: number): void {
    // In the order of coming: how many at the beginning are too old.
    const fresh = deps.alive() ? waiting.findIndex(({ sinceMs }) => nowMs - sinceMs < staleMs) : -1
    giveBackSome(waiting.splice(0, fresh === -1 ? waiting.length : fresh))
  }

  function giveBackSome(some: readonly Waiting[]): void {
    for (const { delivery } of some) void settle(delivery, { action: 'return', receipt: delivery.receipt })
  }

  const limitAt = (nowMs: number): number => Math.min(assignment.concurrency, permits(circuit, nowMs))

  function wantedAt(nowMs: number): number {
    if (!deps.alive()) {
      inMs(retryMs)
      return 0
    }
    const here = underWay + waiting.length
    if (held.bytes > heldBytesLimit) return here > 0 ? 0 : 1
    const limit = limitAt(nowMs)
    if (rate) return Math.min(limit - here, rate.within(nowMs, paceAheadMs) - waiting.length)
    // A gateway that is killed has used up an attempt of what waits here: the only one is for the endpoint.
    const more = circuit.failures > 0 || attemptsLeft(assignment) === 1 ? 0 : ahead.wanted(limit)
    // Asked for in fair portions: a lease that brings one message costs as much as one that brings fifty.
    const wanted = limit + more - here
    return wanted > 0 && (waiting.length <= more / 2 || underWay < limit) ? Math.min(1000, wanted) : 0
  }

  async function take(max: number): Promise<void> {
    const controller = new AbortController()
    receiving = controller
    const leaseMs = assignment.timeoutMs + leaseMarginMs
    const options = { max, waitMs: pollMs, leaseMs, signal: controller.signal, subscription: assignment.number }
    try {
      const startMs = monotonicMs()
      const { messages } = await broker.receive(assignment.queue, options)
      const sinceMs = monotonicMs()
      for (const delivery of messages) {
        held.bytes += delivery.body.length
        ahead.came(delivery.body.length)
        const ageMs = delivery.leaseExpiresAt.getTime() - leaseMs - delivery.enqueuedAt.getTime()
        waiting.push({ delivery, sinceMs, ageMs })
      }
      receiving = undefined
      // It came after the word that nothing more may be sent of it, or not as it was asked for.
      if (stopped || controller.signal.aborted) giveBack()
      if (stopped) return
      // Answered at once with nothing: the gateway stops, or was told to look anew.
      if (messages.length === 0 && sinceMs - startMs < retryMs && !controller.signal.aborted) inMs(retryMs)
      else pump()
    } catch (error) {
      receiving = undefined
      // Away for a moment, or the queue is gone and so, soon, is the subscription.
      if (!(error instanceof BrokerError))
        deps.log('receiving for a webhook failed', { subscription: assignment.id, error })
      if (!stopped) inMs(retryMs)
    }
  }

  /** Nothing may be sent for now: others may have what waits here. */
  function giveBack(): void {
    receiving?.abort()
    giveBackSome(waiting.splice(0))
  }

  async function deliver({ delivery, sinceMs, ageMs }: Waiting, nowMs: number): Promise<void> {
    const of = assignment
    underWay++
    ahead.begun(nowMs)
    rate?.take(nowMs)
    calledAtMs = nowMs
    const at = new Date(wallMs())
    const span = deps.tracing && spanOf(deps.tracing, of, delivery)
    const traced = span ? { ...delivery, headers: { ...delivery.headers, ...span.context } } : delivery
    const { headers, body } = requestFor(of, traced, at.getTime(), deps.version)
    const result = await sender.send({ url: of.url, headers, body, timeoutMs: of.timeoutMs, signal: breakOff.signal })
    underWay--
    ahead.finished(result.durationMs, monotonicMs())
    const verdict: Verdict = verdictOf(result.outcome, {
      attempt: delivery.attempt,
      maxAttempts: attemptsLeft(of),
      retry: of.retry,
      nowMs: wallMs(),
      random: random(),
    })
    const isOurs = result.outcome.kind === 'failure' && result.outcome.code === 'aborted'
    void settle(delivery, isOurs ? brokenOff(delivery.receipt) : actionFor(verdict, delivery.receipt))
    if (span) endSpan(span, result, verdict)
    if (!isOurs) {
      judge(verdict, of)
      deps.observe?.attempt({
        subscription: of.id,
        status: result.outcome.kind === 'answer' ? result.outcome.status : null,
        verdict: verdict.action,
        durationMs: result.durationMs,
        ageMs: ageMs + monotonicMs() - sinceMs,
      })
    }
    record({ of, delivery, at, requestHeaders: headers }, result, isOurs ? atOnce(verdict) : verdict)
    pump()
  }

  /** What the verdict says about the endpoint. */
  function judge(verdict: Verdict, of: Assignment): void {
    const nowMs = monotonicMs()
    const before = { state: circuit.state, failing }
    failing = verdict.action !== 'settle'
    circuit = failing ? afterFailure(circuit, nowMs, random()) : afterSuccess()
    const holdMs = verdict.action === 'settle' ? null : verdict.holdMs
    if (holdMs !== null) heldUntilMs = Math.max(heldUntilMs, nowMs + holdMs)
    if (verdict.action === 'dead' && verdict.disable) disable('gone', of)
    else if (failing !== before.failing || circuit.state !== before.state || holdMs !== null) reporter.news()
    else if (failing) reporter.stillFailing()
  }

  /** `of`: as it was when the endpoint was asked; one that has been changed since is not disabled. */
  function disable(reason: 'gone' | 'failing', of: Assignment): void {
    deps.log('webhook disabled', { subscription: of.id, reason })
    void track(broker.desk.disable(of, reason), 'disabling a webhook failed')
    if (of.version === assignment.version) deps.disabled(of.number)
  }

  function record(call: Call, result: SendResult, verdict: Verdict): void {
    const report = reportOf(call, result, verdict)
    deps.log('webhook attempt', logFields(call, report, verdict))
    gathered.record(report)
  }

  /** Tried again while the lease lasts: a message that was delivered should not come twice because the database was away. */
  async function settle(delivery: Delivery, action: SettleAction): Promise<void> {
    held.bytes -= delivery.body.length
    unfinished++
    for (let isSettled = false; !isSettled; ) {
      try {
        await gathered.settle(action, action.action === 'ack' && !assignment.ackFrees)
        isSettled = true
      } catch (error) {
        const unavailable = error instanceof BrokerError && error.code === 'unavailable'
        isSettled = !unavailable || wallMs() > delivery.leaseExpiresAt.getTime() || breakOff.signal.aborted
        if (isSettled) deps.log('settling a webhook failed', { subscription: assignment.id, error })
        else await sleep(retryMs)
      }
    }
    unfinished--
  }

  async function track(work: Promise<unknown>, failed: string): Promise<void> {
    unfinished++
    try {
      await work
    } catch (error) {
      deps.log(failed, { subscription: assignment.id, error })
    } finally {
      unfinished--
    }
  }

  async function end(): Promise<void> {
    stopped = true
    timer?.cancel()
    giveBack()
    while ((underWay > 0 || unfinished > 0 || receiving) && monotonicMs() < endMs) await sleep(5)
    breakOff.abort()
    while (underWay > 0) await sleep(1)
    void track(reporter.stop(), 'recording the health of a webhook failed')
    const lastMs = monotonicMs() + lastStepMs
    while (unfinished > 0 && monotonicMs() < lastMs) await sleep(1)
  }

  pump()
  return {
    number: first.number,
    queueId: first.queueId,
    version: () => assignment.version,
    state: () => ({ subscription: assignment.id, underWay, circuitOpen: circuit.state !== 'closed' }),
    update(changed) {
      const { rate: old, url } = assignment
      assignment = changed
      const isReset = changed.health.circuit === 'closed' && changed.health.heldUntil === null
      if (changed.url !== url || isReset) {
        circuit = closedCircuit
        heldUntilMs = 0
        failing = changed.health.failingSince !== null
      }
      if (old?.count !== changed.rate?.count || old?.perMs !== changed.rate?.perMs) {
        calledAtMs = Math.max(calledAtMs, calledBy(changed))
        rate = paceOf(changed, calledAtMs)
      }
      // Leased, and asked for, as it was before: it takes its place anew.
      giveBack()
      pump()
    },
    queueChanged() {
      // It may be paused, or what waits here was purged.
      giveBack()
      pump()
    },
    stop(graceMs) {
      endMs = Math.min(endMs, monotonicMs() + graceMs)
      ending ??= end()
      return ending
    },
  }
}

/** Of a message that has had none. */
const attemptsLeft = (of: Assignment): number => Math.min(attemptsOf(of), of.queueMaxAttempts)

const paceOf = ({ rate }: Assignment, lastMs: number): Pace | null => rate && pace(rate.count, rate.perMs, lastMs)

/**
 * When the endpoint was called last, by this process's clock; one that never was may be called at once. A gateway that hands over has
 * written the log before. One that was killed has left out what it had under way, and what ended in its last 25 ms (`gather.ts`), so its
 * successor waits one whole interval from its own beginning (`roster.ts`): a slow rate is late by that after a crash, not
 * exceeded; unless that one hands over again before the interval is over, when only the log is left to go by.
 */
const calledBy = ({ calledMs }: Assignment): number =>
  calledMs === null ? Number.NEGATIVE_INFINITY : monotonicMs() - calledMs

/** Until when nothing is to be sent, by this process's clock, as another gateway left it; 0: now. */
function heldBy({ health }: Assignment): number {
  const leftMs = health.heldUntil ? health.heldUntil.getTime() - wallMs() : 0
  return leftMs > 0 ? monotonicMs() + Math.min(leftMs, 24 * 3600_000) : 0
}

const inheritedCircuit = (assignment: Assignment): Circuit =>
  inherited(assignment.health.circuit, assignment.health.failures, heldBy(assignment))
