/** Postern beside its rivals: cycles of a hundred, single sends and single cycles by 256 callers; then over HTTP, by a gateway alone. */
import type { Place } from './place.ts'
import { type Contender, everyone, graphile, type Lazy, lazily, pgBoss, postern, posternHttp } from './rivals/index.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

type Work = { name: string; kind: 'send' | 'cycle'; count: number; callers: number }

export const versusWorks = {
  cycle100: { name: 'cycle 100', kind: 'cycle', count: 100, callers: 4 },
  cycle100Wide: { name: 'cycle 100', kind: 'cycle', count: 100, callers: 16 },
  send100: { name: 'send 100', kind: 'send', count: 100, callers: 4 },
  send1: { name: 'send 1', kind: 'send', count: 1, callers: 256 },
  cycle1: { name: 'cycle 1', kind: 'cycle', count: 1, callers: 256 },
} as const satisfies Record<string, Work>

export const versusName = ({ name, callers }: Work, contender: Contender): string =>
  `versus  ${name} x ${callers}, ${contender.name}`

/** A part for each work, so that nobody's connections and upkeep are there while another work is measured. */
export function versusParts(place: Place): Part[] {
  const { cycle100, cycle100Wide, send1, cycle1 } = versusWorks
  const ratios: [string, string][] = [
    [versusName(cycle100, postern), versusName(cycle100, pgBoss)],
    [versusName(cycle100, postern), versusName(cycle100, graphile)],
    [versusName(cycle100Wide, postern), versusName(cycle100Wide, pgBoss)],
    [versusName(cycle100Wide, postern), versusName(cycle100Wide, graphile)],
    [versusName(send1, postern), versusName(send1, pgBoss)],
    [versusName(cycle1, postern), versusName(cycle1, pgBoss)],
  ]
  return Object.values(versusWorks).map((work) => ({ ...versusPart(place, work, everyone()), ratios }))
}

export const versusHttpParts = (place: Place): Part[] =>
  Object.values(versusWorks).map((work) => versusPart(place, work, [posternHttp]))

function versusPart(place: Place, work: Work, chosen: readonly Contender[]): Part {
  const contenders = chosen.map((contender) => ({ contender, lazy: lazily(place, contender) }))
  return {
    title: 'messages per second',
    scenarios: contenders.map(({ contender, lazy }) => scenarioOf(work, contender, lazy)),
    latencies: [],
    ratios: [],
    close: () => Promise.all(contenders.map(({ lazy }) => lazy.close())),
  }
}

function scenarioOf(work: Work, contender: Contender, { line }: Lazy): Scenario {
  return {
    name: versusName(work, contender),
    prepare: line,
    async run(roundMs) {
      const opened = await line()
      return await calling({ callers: work.callers, call: () => opened[work.kind](work.count) }, roundMs)
    },
    // What was sent for nobody to take: the next round begins as this one did.
    tidy: async () => (work.kind === 'send' ? await (await line()).purge() : undefined),
    ...contender.costs,
  }
}
