/**
 * Tells the database how an endpoint is doing: what was last true, one report at a time and at most one a second, so that a flapping
 * endpoint costs no more than a steady one, and a report that failed is made again.
 */
import { after, monotonicMs, type Timer } from '../base/index.ts'
import type { Assignment, Desk } from '../broker/index.ts'
import { type Circuit, subscriptionLimits } from '../model/index.ts'

export type Standing = { circuit: Circuit; failing: boolean; heldUntilMs: number }

export type Reporter = {
  /** Something about the standing has changed. */
  news(): void
  /** It goes on failing: said now and then, so that the database can tell for how long. */
  stillFailing(): void
  /** Says what has not been said. */
  stop(): Promise<void>
}

type Options = {
  desk: Pick<Desk, 'recordHealth'>
  assignment(): Assignment
  standing(): Standing
  /** It has been failing for too long. */
  tooLong(): void
  log(event: string, fields?: Record<string, unknown>): void
}

const everyMs = 1_000
const stillEveryMs = 5_000

export function createReporter({ desk, assignment, standing, tooLong, log }: Options): Reporter {
  let wanted = false
  let sentMs = Number.NEGATIVE_INFINITY
  let sending: Promise<void> | undefined
  let timer: Timer | undefined
  let stopped = false

  function schedule(): void {
    if (!wanted || sending || timer || stopped) return
    timer = after(Math.max(0, sentMs + everyMs - monotonicMs()), () => {
      timer = undefined
      sending = send().finally(() => {
        sending = undefined
        schedule()
      })
    })
  }

  async function send(): Promise<void> {
    wanted = false
    const nowMs = monotonicMs()
    sentMs = nowMs
    const { circuit, failing, heldUntilMs } = standing()
    const untilMs = Math.max(heldUntilMs, circuit.state === 'closed' ? 0 : circuit.untilMs)
    const heldMs = untilMs > nowMs ? Math.ceil(untilMs - nowMs) : null
    const { number, id } = assignment()
    try {
      const health = { circuit: circuit.state, failures: circuit.failures, failing, heldMs }
      const { failingMs } = await desk.recordHealth(number, health)
      if (failing && failingMs > subscriptionLimits.failingMs) tooLong()
    } catch (error) {
      wanted = true
      log('recording the health of a webhook failed', { subscription: id, error })
    }
  }

  return {
    news() {
      wanted = true
      schedule()
    },
    stillFailing() {
      if (monotonicMs() - sentMs < stillEveryMs) return
      wanted = true
      schedule()
    },
    async stop() {
      stopped = true
      timer?.cancel()
      await sending
      if (wanted) await send()
    },
  }
}
