/** What this gateway has sent and settled since it last said so, by queue, and how long its consumers were busy. */
import type { Work } from '../model/index.ts'
import type { Rate } from '../store/index.ts'

export type Rates = {
  sent(queueId: number, count: number): void
  settled(queueId: number, count: number): void
  worked(queueId: number, work: Work): void
  unrecorded(queueId: number): Omit<Rate, 'queueId'>
  /** Hands over everything and begins anew. */
  take(): Rate[]
}

const nothing = { sent: 0, settled: 0, receives: 0, received: 0, busyMs: 0 }

export function createRates(): Rates {
  let rates = new Map<number, Rate>()
  function of(queueId: number): Rate {
    let rate = rates.get(queueId)
    if (!rate) {
      rate = { queueId, ...nothing }
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
    worked(queueId, { receives, received, busyMs }) {
      const rate = of(queueId)
      rate.receives += receives
      rate.received += received
      rate.busyMs += busyMs
    },
    unrecorded: (queueId) => rates.get(queueId) ?? nothing,
    take() {
      const taken = [...rates.values()]
      rates = new Map()
      return taken
    },
  }
}
