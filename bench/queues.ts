/** A thousand queues with little each beside one queue with all of it: single cycles by 256 callers, who go from queue to queue. */
import type { Place } from './place.ts'
import { type Contender, everyone, lazily, postern, posternHttp } from './rivals/index.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const callers = 256
const counts = [1, 1000]

export const queuesName = (contender: Pick<Contender, 'name'>, count: number): string =>
  `queues  cycle 1 x ${callers}, ${contender.name}, ${count === 1 ? '1 queue' : `${count.toLocaleString('en')} queues`}`

export const queuesPart = (place: Place): Part => partOf(place, everyone(), postern)
export const queuesHttpPart = (place: Place): Part => partOf(place, [posternHttp], posternHttp)

function partOf(place: Place, contenders: readonly Contender[], ours: Contender): Part {
  const cells = contenders.flatMap((contender) =>
    counts.map((count) => ({ contender, count, lazy: lazily(place, contender, count) })),
  )
  return {
    title: 'messages per second',
    scenarios: cells.map(
      ({ contender, count, lazy: { line } }): Scenario => ({
        name: queuesName(contender, count),
        prepare: line,
        async run(roundMs) {
          const opened = await line()
          return await calling({ callers, call: () => opened.cycle(1) }, roundMs)
        },
        ...contender.costs,
      }),
    ),
    latencies: [],
    ratios: [[queuesName(ours, 1000), queuesName(ours, 1)]],
    close: () => Promise.all(cells.map(({ lazy }) => lazy.close())),
  }
}
