/**
 * Group commit: while one run is under way, later calls gather and leave together in the next. An idle batch adds no
 * delay unless it is patient, a busy one makes larger runs. Nobody waits for ever, and what waits is bounded.
 */
import { type Beside, worthBeside } from './beside.ts'
import { after, monotonicMs, soon } from './clock.ts'

type Call<T, R> = {
  item: T
  weight: number
  sinceMs: number
  resolve: (result: R) => void
  reject: (error: unknown) => void
}

export type BatchOptions<T> = {
  /** Runs at once. */
  lanes: number
  /** When a run begins beside one under way; not given: whenever a lane is free. */
  beside?: Beside
  /** It waits as long for the first run too: nobody is in a hurry. */
  patient?: boolean
  /** So many calls make a run that is worth a lane of its own: when several lanes are free, they share what waits if it gives each so many. */
  worthLane?: number
  /** Items, by weight, that one run carries; a single heavier item goes alone. */
  maxWeight: number
  weigh(item: T): number
  /** Weight that may wait; a call beyond it is refused by `overloaded`. */
  maxWaiting: number
  /** How long a call may wait for its run to begin; then it is refused by `overloaded`. */
  maxWaitMs: number
  overloaded(): Error
  /** A run begins, with so many calls. */
  ran?(calls: number): void
  /** Whether the run did nothing at all, so that its items may be tried one by one. */
  harmless(error: unknown): boolean
}

/**
 * `run` answers in the order asked; an Error in an answer's place rejects that caller alone. When a run of several
 * fails without having done anything, each item is run by itself, so one caller's fault is one caller's error.
 */
export function batch<T, R>(
  run: (items: readonly T[]) => Promise<readonly (R | Error)[]>,
  options: BatchOptions<T>,
): (item: T) => Promise<R> {
  const waiting: Call<T, R>[] = []
  let waitingWeight = 0
  let busy = 0
  let pumping = false
  let watching = false
  const isWorthIt = options.beside ? worthBeside(options.beside, pump) : () => true

  function pump(): void {
    pumping = false
    while (busy < options.lanes && waiting.length > 0) {
      if ((busy > 0 || options.patient) && !isWorthIt(waitingWeight, waiting[0]?.sinceMs ?? 0)) return
      const calls = share()
      busy++
      void flush(take(calls)).then(() => {
        busy--
        pump()
      })
    }
  }

  /** How many calls one of the free lanes is to take at most. */
  function share(): number {
    const free = options.lanes - busy
    const isWorthSharing = options.worthLane !== undefined && waiting.length >= free * options.worthLane
    return isWorthSharing ? Math.ceil(waiting.length / free) : waiting.length
  }

  function take(most: number): Call<T, R>[] {
    let weight = 0
    let count = 0
    for (const call of waiting) {
      if (count >= most) break
      if (count > 0 && weight + call.weight > options.maxWeight) break
      weight += call.weight
      count++
    }
    waitingWeight -= weight
    return waiting.splice(0, count)
  }

  function refuseLate(): void {
    watching = false
    const lateMs = monotonicMs() - options.maxWaitMs
    let count = 0
    for (const call of waiting) {
      if (call.sinceMs > lateMs) break
      waitingWeight -= call.weight
      count++
    }
    for (const call of waiting.splice(0, count)) call.reject(options.overloaded())
    watchOldest()
  }

  function watchOldest(): void {
    const [oldest] = waiting
    if (!oldest || watching) return
    watching = true
    after(Math.max(1, oldest.sinceMs + options.maxWaitMs - monotonicMs()), refuseLate)
  }

  async function flush(calls: Call<T, R>[]): Promise<void> {
    options.ran?.(calls.length)
    try {
      const answers = await run(calls.map((call) => call.item))
      if (answers.length !== calls.length) throw new Error(`batch: asked ${calls.length}, answered ${answers.length}`)
      calls.forEach((call, at) => {
        const answer = answers[at] as R | Error
        if (answer instanceof Error) call.reject(answer)
        else call.resolve(answer)
      })
    } catch (error) {
      if (calls.length > 1 && options.harmless(error)) for (const call of calls) await flush([call])
      else for (const call of calls) call.reject(error)
    }
  }

  return (item) =>
    new Promise<R>((resolve, reject) => {
      const weight = options.weigh(item)
      if (waitingWeight > 0 && waitingWeight + weight > options.maxWaiting) return reject(options.overloaded())
      waiting.push({ item, weight, sinceMs: monotonicMs(), resolve, reject })
      waitingWeight += weight
      watchOldest()
      // After the I/O events of this turn, so that requests that arrived together leave together.
      if (!pumping) {
        pumping = true
        soon(pump)
      }
    })
}
