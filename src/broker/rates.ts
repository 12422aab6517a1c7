/** What this gateway has sent and settled since it last said so, by queue. */
import type { Rate } from '../store/index.ts'

export type Rates = {
  sent(queueId: number, count: number): void
  settled(queueId: number, count: number): void
  unrecorded(queueId: number): { sent: number; settled: number }
  /** Hands over everything and begins anew. */
  take(): Rate[]
}

export function createRates(): Rates {
  let rates = new Map<number, Rate>()
  function of(queueId: number): Rate {
    let rate = rates.get(queueId)
    if (!rate) {
      rate = { queueId, sent: 0, settled: 0 }
      rates.set(queueId, rate)
    }
    return rate
  }
  return {
    sent(queueId, count) {
      of(queueId).sent += count
    },
    settled(queueId, count) {
      if (count > 0) of(queueId).settled += count
    },
    unrecorded: (queueId) => rates.get(queueId) ?? { sent: 0, settled: 0 },
    take() {
      const taken = [...rates.values()]
      rates = new Map()
      return taken
    },
  }
}
