/** Cycles of a hundred while a million messages are ready, or a hundred thousand leased or delayed, beside an empty queue. */
import type { Place } from './place.ts'
import { type Contender, lazily, onPostgres, type Standing } from './rivals/index.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const states: { name: string; kind?: Standing; count: number }[] = [
  { name: 'empty', count: 0 },
  { name: '1,000,000 ready', kind: 'ready', count: 1_000_000 },
  { name: '100,000 leased', kind: 'leased', count: 100_000 },
  { name: '100,000 delayed', kind: 'delayed', count: 100_000 },
]
const callers = 4

export const standingName = (contender: Pick<Contender, 'name'>, state: string): string =>
  `standing  ${contender.name}, ${state}`
export const standingStates = states.map(({ name }) => name)

/** A part for each contender: its four queues are there at once, and go before the next contender's come. */
export const standingParts = (place: Place): Part[] => onPostgres.map((contender) => partOf(place, contender))

function partOf(place: Place, contender: Contender): Part {
  const cells = states.map((state) => ({ state, lazy: lazily(place, contender) }))
  const scenarios = cells.map(({ state, lazy }): Scenario => {
    let stands = false
    return {
      name: standingName(contender, state.name),
      async prepare() {
        const line = await lazy.line()
        if (!stands && state.kind) await line.stand(state.kind, state.count)
        stands = true
      },
      async run(roundMs) {
        const line = await lazy.line()
        return await calling({ callers, call: () => line.cycle(100) }, roundMs)
      },
      ...contender.costs,
    }
  })
  const [empty = ''] = states.map(({ name }) => standingName(contender, name))
  return {
    title: `messages per second, cycles of 100 x ${callers} callers`,
    scenarios,
    latencies: [],
    ratios: states.slice(1).map(({ name }): [string, string] => [standingName(contender, name), empty]),
    close: () => Promise.all(cells.map(({ lazy }) => lazy.close())),
  }
}
