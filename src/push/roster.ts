/**
 * Which subscriptions this gateway delivers for. Each is owned by one living gateway; a heartbeat keeps what is owned and takes what
 * is free up to a fair share. A gateway that dies is succeeded within seconds, one that stops hands over what it had.
 */
import { type Loop, loop, monotonicMs } from '../base/index.ts'
import type { Broker } from '../broker/index.ts'
import { createGathered } from './gather.ts'
import { createWorker, type Worker, type WorkerDeps } from './worker.ts'

export type Roster = { states(): ReturnType<Worker['state']>[]; stop(graceMs: number): Promise<void> }

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
  /** Being stopped; still owned. */
  const leaving = new Map<number, Promise<void>>()
  const changed = new Set<number>()
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

  /** The worker ends; what is under way may finish. */
  function dismiss(number: number, graceMs: number): Promise<void> {
    const worker = workers.get(number)
    if (!worker) return leaving.get(number) ?? Promise.resolve()
    workers.delete(number)
    const gone = worker.stop(graceMs).finally(() => leaving.delete(number))
    leaving.set(number, gone)
    return gone
  }

  async function employ(numbers: readonly number[]): Promise<void> {
    const wanted = numbers.filter((number) => !workers.has(number) && !leaving.has(number))
    if (wanted.length === 0) return
    for (const assignment of await desk.load(wanted)) {
      if (stopping) return
      if (assignment.disabled !== null || workers.has(assignment.number)) continue
      workers.set(assignment.number, createWorker(assignment, deps))
    }
  }

  async function reconcile(): Promise<void> {
    reconciledMs = monotonicMs()
    const owned = await desk.owned()
    // Somebody else delivers for it now: what is under way here would be one too many.
    for (const number of workers.keys()) if (!owned.has(number)) void dismiss(number, 0)
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
      void dismiss(number, handOverMs)
        .then(() => desk.release([number]))
        .catch((error: unknown) => log('handing over a webhook failed', { error }))
    }
  }

  async function beat(): Promise<number> {
    const sentMs = monotonicMs()
    const lapsed = sentMs > aliveUntilMs
    if (lapsed) aliveSinceMs = sentMs
    const { taken, excess } = await desk.claim(aliveMs, sentMs - aliveSinceMs > patienceMs)
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
  })

  return {
    states: () => [...workers.values()].map((worker) => worker.state()),
    async stop(graceMs) {
      stopping = true
      const all = [...workers.keys()].map((number) => dismiss(number, graceMs).then(() => desk.release([number])))
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
      await Promise.allSettled([...all, ...leaving.values()])
      await keepAlive.stop()
      await gathered.flush()
      await desk.retire().catch((error: unknown) => log('retiring failed', { error }))
    },
  }
}
