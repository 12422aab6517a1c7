/**
 * Which subscriptions this gateway delivers for. Each is owned by one living gateway; a heartbeat keeps what is owned and takes what
 * is free up to a fair share. A gateway that dies is succeeded within seconds, one that stops hands over what it had.
 */
import { type Loop, loop, monotonicMs } from '../base/index.ts'
import type { Broker } from '../broker/index.ts'
import { createGathered } from './gather.ts'
import { createWorker, type Worker, type WorkerDeps } from './worker.ts'

export type Roster = { states(): ReturnType<Worker['state']>[]; stop(graceMs: number): Promise<void> }

type Leaving = { worker: Worker; gives: boolean; gone: Promise<void> }

type Options = Omit<WorkerDeps, 'alive' | 'held' | 'disabled' | 'gathered'> & { broker: Broker }

const heartbeatMs = 1_000
const aliveMs = 5_000
/** Nothing new is sent in the last part of the time: it takes a moment to dial. */
const aliveMarginMs = 500
const reconcileMs = 5_000
/** After a start or a silence the others are given so long to be heard from before they are taken for dead. */
const patienceMs = 2 * heartbeatMs + 500
const handOverMs = 30_000

export function startRoster(options: Options): Roster {
  const { broker, log } = options
  const { desk } = broker
  const workers = new Map<number, Worker>()
  /** Being stopped; owned until that is over, unless it was taken away. */
  const leaving = new Map<number, Leaving>()
  const changed = new Set<number>()
  /** From gateways that have died; what these had under way no log tells. */
  const inherited = new Set<number>()
  let aliveUntilMs = Number.NEGATIVE_INFINITY
  let aliveSinceMs = 0
  let stopping = false
  let reconciledMs = Number.NEGATIVE_INFINITY
  const held = { bytes: 0 }
  const gathered = createGathered({ broker, log })
  const deps: WorkerDeps = {
    ...options,
    held,
    gathered,
    alive: () => monotonicMs() < aliveUntilMs - aliveMarginMs,
    disabled: (number) => void dismiss(number, handOverMs),
  }

  /** The worker ends; what is under way may finish. One that is already ending may have to hurry. `gives`: others may then have it. */
  function dismiss(number: number, graceMs: number, gives = false): Promise<void> {
    const known = leaving.get(number)
    if (known) {
      known.gives ||= gives
      void known.worker.stop(graceMs)
      return known.gone
    }
    const worker = workers.get(number)
    if (!worker) return Promise.resolve()
    workers.delete(number)
    const entry: Leaving = { worker, gives, gone: Promise.resolve() }
    leaving.set(number, entry)
    entry.gone = end(entry, graceMs).finally(() => leaving.delete(number))
    return entry.gone
  }

  async function end(entry: Leaving, graceMs: number): Promise<void> {
    const { number, stop } = entry.worker
    await stop(graceMs)
    if (!entry.gives) return
    try {
      // Whoever comes next reads there when it may call.
      await gathered.flush()
      await desk.release([number])
    } catch (error) {
      log('handing over a webhook failed', { error })
    }
  }

  async function employ(numbers: readonly number[]): Promise<void> {
    const wanted = numbers.filter((number) => !workers.has(number) && !leaving.has(number))
    if (wanted.length === 0) return
    for (const assignment of await desk.load(wanted)) {
      if (stopping) return
      if (assignment.disabled !== null || workers.has(assignment.number)) continue
      // As if it had called until now.
      const calledMs = inherited.delete(assignment.number) ? 0 : assignment.calledMs
      workers.set(assignment.number, createWorker({ ...assignment, calledMs }, deps))
    }
  }

  async function reconcile(): Promise<void> {
    reconciledMs = monotonicMs()
    const owned = await desk.owned()
    const lost = [...workers.keys(), ...leaving.keys()].filter((number) => !owned.has(number))
    const elsewhere = lost.length > 0 ? await desk.ownedElsewhere(lost) : new Set<number>()
    // Where somebody else delivers now, what is under way here would be one too many; what is disabled or deleted may finish.
    for (const number of lost)
      if (elsewhere.has(number)) void dismiss(number, 0)
      else if (workers.has(number)) void dismiss(number, handOverMs)
    const stale = [...workers.values()].filter((worker) => owned.get(worker.number) !== worker.version())
    await reload(stale.map((worker) => worker.number))
    await employ([...owned.keys()])
  }

  async function reload(numbers: readonly number[]): Promise<void> {
    if (numbers.length === 0) return
    const found = new Map((await desk.load(numbers)).map((assignment) => [assignment.number, assignment]))
    for (const number of numbers) {
      const assignment = found.get(number)
      if (!assignment || assignment.disabled !== null) void dismiss(number, handOverMs)
      else workers.get(number)?.update(assignment)
    }
  }

  /** More than the fair share: others are waiting. Released only when nothing is under way any more. */
  function handOver(count: number): void {
    for (const number of [...workers.keys()].slice(0, Math.max(0, count - leaving.size))) {
      void dismiss(number, handOverMs, true)
    }
  }

  async function beat(): Promise<number> {
    const sentMs = monotonicMs()
    const lapsed = sentMs > aliveUntilMs
    if (lapsed) aliveSinceMs = sentMs
    const claimed = await desk.claim(aliveMs, sentMs - aliveSinceMs > patienceMs)
    const { taken, excess } = claimed
    for (const number of claimed.inherited) inherited.add(number)
    aliveUntilMs = sentMs + aliveMs
    if (taken.length > 0) await employ(taken)
    if (lapsed || sentMs - reconciledMs > reconcileMs) await reconcile()
    const news = [...changed].filter((number) => workers.has(number))
    changed.clear()
    await reload(news)
    if (excess > 0) handOver(excess)
    return heartbeatMs
  }

  const beating: Loop = loop(beat, {
    retryMs: heartbeatMs,
    failed: (error) => log('webhook heartbeat failed', { error }),
  })
  desk.listen({
    changed(number) {
      changed.add(number)
      beating.nudge()
    },
    free: () => beating.nudge(),
    queueChanged(queueId) {
      for (const worker of workers.values())
        if (worker.queueId === queueId) {
          worker.queueChanged()
          // Its queue's limit of attempts is part of the assignment; that may wait for the next beat.
          changed.add(worker.number)
        }
    },
  })

  return {
    states: () => [...workers.values()].map((worker) => worker.state()),
    async stop(graceMs) {
      stopping = true
      const all = [...workers.keys(), ...leaving.keys()].map((number) => dismiss(number, graceMs, true))
      await beating.stop()
      // Each is free as soon as its own last request is answered; the rest when the time is over.
      const keepAlive = loop(
        async () => {
          const sentMs = monotonicMs()
          await desk.keep(aliveMs)
          aliveUntilMs = sentMs + aliveMs
          return heartbeatMs
        },
        { retryMs: heartbeatMs, failed: () => {} },
      )
      await Promise.allSettled(all)
      await keepAlive.stop()
      await gathered.flush()
      await desk.retire().catch((error: unknown) => log('retiring failed', { error }))
    },
  }
}
