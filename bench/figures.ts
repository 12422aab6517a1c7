/** The goals, each as a question to the results. */
import { heldBackName } from './held_back.ts'
import { httpNames } from './http.ts'
import { pullName, pushName } from './latency.ts'
import { parkedNames } from './parked.ts'
import { pushNames } from './push.ts'
import { queuesName } from './queues.ts'
import { graphile, pgBoss, postern } from './rivals/index.ts'
import { standingName, standingStates } from './standing.ts'
import { versusName, versusWorks } from './versus.ts'

/** `by`: the value is divided by that one's. `most`: it may not be more; else not less. */
export type Figure = { name: string; value: string; by?: string; wanted: number; most?: boolean }
/** `byCpu`: the same ratio by the CPU that a message costs, which other load on the machine distorts less; null: not a ratio of rates. */
export type Verdict = {
  name: string
  wanted: number
  reached: number
  most: boolean
  holds: boolean
  byCpu: number | null
}

const { cycle100, cycle100Wide, send1, cycle1 } = versusWorks

export const figures: readonly Figure[] = [
  ...[cycle100, cycle100Wide].flatMap((work) =>
    [
      { rival: pgBoss, wanted: 4 },
      { rival: graphile, wanted: 2.5 },
    ].map(({ rival, wanted }) => ({
      name: `1  cycle at batch 100, ${work.callers} callers, over ${rival.name}`,
      value: versusName(work, postern),
      by: versusName(work, rival),
      wanted,
    })),
  ),
  {
    name: '2  256 callers, single sends, over pg-boss',
    value: versusName(send1, postern),
    by: versusName(send1, pgBoss),
    wanted: 10,
  },
  {
    name: '2  256 callers, single cycles, over pg-boss',
    value: versusName(cycle1, postern),
    by: versusName(cycle1, pgBoss),
    wanted: 5,
  },
  ...standingStates.slice(1).map((state) => ({
    name: `3  ${state}, over empty`,
    value: standingName(postern, state),
    by: standingName(postern, 'empty'),
    wanted: 0.8,
  })),
  { name: '4  vacuum held back, last 10 s over first', value: heldBackName(postern), wanted: 0.8 },
  { name: '5  1,000 queues, over one', value: queuesName(postern, 1000), by: queuesName(postern, 1), wanted: 0.7 },
  { name: '6  durable send over HTTP, over a bare POST', value: httpNames.send, by: httpNames.bare, wanted: 0.5 },
  { name: '7  send to long poll at 200/s, p50 ms', value: `${pullName} p50`, wanted: 5, most: true },
  { name: '7  send to long poll at 200/s, p99 ms', value: `${pullName} p99`, wanted: 25, most: true },
  { name: '8  send to webhook at 200/s, p50 ms', value: `${pushName} p50`, wanted: 5, most: true },
  { name: '8  send to webhook at 200/s, p99 ms', value: `${pushName} p99`, wanted: 25, most: true },
  { name: '9  10,000 parked polls, KB each', value: parkedNames.bytes, wanted: 20, most: true },
  { name: '9  10,000 parked polls, p99 of others over alone', value: parkedNames.slower, wanted: 2, most: true },
  {
    name: '10 webhooks, 10 at once, over bare undici',
    value: pushNames(10).webhooks,
    by: pushNames(10).bare,
    wanted: 0.5,
  },
  {
    name: '10 webhooks, 100 at once, over bare undici',
    value: pushNames(100).webhooks,
    by: pushNames(100).bare,
    wanted: 0.5,
  },
]

/** Of those whose values were measured. */
export function judge(questions: readonly Figure[], values: ReadonlyMap<string, number>): Verdict[] {
  return questions.flatMap(({ name, value, by, wanted, most = false }) => {
    const above = values.get(value)
    const below = by === undefined ? 1 : values.get(by)
    if (above === undefined || below === undefined || below === 0) return []
    const reached = above / below
    const [costs, othersCost] = [values.get(`${value} cpu`), values.get(`${by} cpu`)]
    const byCpu = costs && othersCost ? othersCost / costs : null
    return [{ name, wanted, reached, most, holds: most ? reached <= wanted : reached >= wanted, byCpu }]
  })
}
