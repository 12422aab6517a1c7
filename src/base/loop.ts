/** Background work that paces itself: each step says how long to rest before the next. */
import { after, monotonicMs, type Timer } from './clock.ts'

export type Loop = {
  /** Shortens the present rest to `withinMs`, or makes the step under way be followed by another at once. */
  nudge(withinMs?: number): void
  stop(): Promise<void>
}

type Options = {
  retryMs: number
  failed(error: unknown): void
  /** It rests at least so many times as long as the step took, whether it failed or not; 0 when not given. */
  restTimes?: number
}

/**
 * Runs `step` again and again; it returns the milliseconds to rest. A step that throws is reported and tried again
 * after `retryMs`.
 */
export function loop(step: () => Promise<number>, options: Options): Loop {
  let timer: Timer | undefined
  let dueMs = 0
  let running: Promise<void> | undefined
  let nudged = false
  let stopped = false

  async function run(): Promise<void> {
    let rest = options.retryMs
    const startMs = monotonicMs()
    try {
      rest = await step()
    } catch (error) {
      options.failed(error)
    }
    running = undefined
    schedule(nudged ? 0 : Math.max(rest, (options.restTimes ?? 0) * (monotonicMs() - startMs)))
  }

  function schedule(ms: number): void {
    timer?.cancel()
    nudged = false
    if (stopped) return
    dueMs = monotonicMs() + ms
    timer = after(ms, () => {
      running = run()
    })
  }

  schedule(0)
  return {
    nudge(withinMs = 0) {
      if (stopped) return
      if (running) nudged = true
      else if (monotonicMs() + withinMs < dueMs) schedule(withinMs)
    },
    async stop() {
      stopped = true
      timer?.cancel()
      await running
    },
  }
}
