/** Before a message is handed over: whether something ready lies before it, looked up in the statement that hands it over. */
import { numbers } from './client.ts'

/** Where a ready message that goes before a handed-over one could lie: a lane and its mark. */
export type Probe = { queueId: number; lane: number; mark: number }

/** As array parameters: the probes of one queue beside each other, and from which to which they are those of each slot (1 to `slots`). */
export function probeArrays(probes: readonly Probe[], slotOf: (queueId: number) => number, slots: number) {
  const bySlot = probes.map((probe) => ({ ...probe, slot: slotOf(probe.queueId) })).sort((a, b) => a.slot - b.slot)
  const from: number[] = []
  const to: number[] = []
  let next = 0
  for (let slot = 1; slot <= slots; slot++) {
    from.push(next + 1)
    while (bySlot[next]?.slot === slot) next++
    to.push(next)
  }
  return {
    from: numbers(from),
    to: numbers(to),
    lanes: numbers(bySlot.map((probe) => probe.lane)),
    marks: numbers(bySlot.map((probe) => probe.mark)),
  }
}

/** SQL, to be asked whether it exists: something ready in the lanes of `queue` (a name of something with id and slot). Primary key of `messages`. */
export const readyAmong = (probes: { queue: string; from: string; to: string; lanes: string; marks: string }): string =>
  `select 1 from generate_series((${probes.from}::int[])[${probes.queue}.slot::int], (${probes.to}::int[])[${probes.queue}.slot::int]) g(at)
      cross join lateral (
        select 1 from postern.messages m where m.queue_id = ${probes.queue}.id and m.lane = (${probes.lanes}::smallint[])[g.at]
          and m.position > (${probes.marks}::bigint[])[g.at] and m.lease_token = 0 limit 1) x`
