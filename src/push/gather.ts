/** What all workers of a gateway report, gathered: settles for which somebody waits leave with those of the same moment, all else a little later together. */
import { after, type BatchOptions, batch, type Timer } from '../base/index.ts'
import type { AttemptReport, Broker } from '../broker/index.ts'
import { BrokerError, type SettleAction } from '../model/index.ts'

export type Gathered = {
  /** Resolves after the commit. Throws unavailable. `patient`: nothing can be delivered the sooner for it. */
  settle(action: SettleAction, patient: boolean): Promise<void>
  /** Does not wait. What the database does not take is logged and dropped: the log of attempts is no ledger. */
  record(attempt: AttemptReport): void
  /** Writes what is here now; what comes meanwhile need not be waited for. */
  flush(): Promise<void>
}

type Options = {
  broker: Pick<Broker, 'settle' | 'desk'>
  log(event: string, fields?: Record<string, unknown>): void
}

/** A fuller statement costs less for each attempt; nobody waits for it. Measured at 1.1x webhooks a second. */
const gatherMs = 25
/** For acks that free nothing; a gateway that is killed meanwhile leaves those messages to be delivered once more. */
const patience = { weight: 64, afterMs: 15 }
const mostAtOnce = 500
const mostWaiting = 20_000
const anyQueue = { queue: null, may: () => true }

export function createGathered({ broker, log }: Options): Gathered {
  const waiting: AttemptReport[] = []
  let recorded = 0
  /** Or dropped. */
  let written = 0
  let timer: Timer | undefined
  let writing: Promise<void> | undefined

  const settling = (more: Partial<BatchOptions<SettleAction>>) =>
    batch<SettleAction, null>(
      async (actions) => {
        await broker.settle(actions, anyQueue)
        return actions.map(() => null)
      },
      {
        lanes: 4,
        maxWeight: 500,
        weigh: () => 1,
        maxWaiting: 100_000,
        maxWaitMs: 10_000,
        overloaded: () => new BrokerError('unavailable', 'Too many webhooks wait to be settled.', { retryAfterS: 1 }),
        harmless: () => false,
        ...more,
      },
    )
  const settleNow = settling({})
  const settleSoon = settling({ beside: patience, patient: true })

  function record(attempt: AttemptReport): void {
    if (waiting.length >= mostWaiting && waiting.shift()) written++
    waiting.push(attempt)
    recorded++
    writeSoon()
  }

  function writeSoon(): void {
    if (writing) return
    if (waiting.length >= mostAtOnce) write()
    else if (waiting.length > 0) timer ??= after(gatherMs, write)
  }

  /** What has come meanwhile gathers in its turn. */
  function write(): void {
    timer?.cancel()
    timer = undefined
    writing = writeSome().finally(() => {
      writing = undefined
      writeSoon()
    })
  }

  async function writeSome(): Promise<void> {
    const some = waiting.splice(0, mostAtOnce)
    await broker.desk
      .recordAttempts(some)
      .catch((error: unknown) => log('recording attempts failed', { attempts: some.length, error }))
    written += some.length
  }

  return {
    settle: async (action, patient) => void (await (patient ? settleSoon(action) : settleNow(action))),
    record,
    async flush() {
      const all = recorded
      while (written < all) {
        if (!writing) write()
        await writing
      }
    },
  }
}
