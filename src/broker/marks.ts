/**
 * The mark of a lane: the position up to which nothing is ready, as far as this gateway knows. A lease looks from it on,
 * so that it never wades through rows that are leased, or deleted and not yet vacuumed. It is a hint: when it is wrong,
 * a message waits for the next sweep, which looks from the beginning.
 *
 * The protocol: a lease's answer raises the mark, but never above the cap of that lease; every commit that appends lowers
 * the mark, and the cap of every lease under way, to just below what it appended; a lease that failed puts the mark back.
 */
import { monotonicMs } from '../base/index.ts'
import { allLanes, type Lane, laneCount } from '../model/index.ts'

/** Before every position, lifo queues' negative ones too. */
export const beginning = -Number.MAX_SAFE_INTEGER

type LaneMark = { mark: number /** Nothing is ready after the mark either. */; idle: boolean }
type QueueMarks = { lanes: LaneMark[]; flights: Set<Flight>; sweptAtMs: number; sweepMs: number }

/** One queue's part of one statement under way that leases or hands over. */
export type Flight = {
  queueId: number
  lanes: { lane: Lane; mark: number }[]
  /** Of lanes into which something was put since it was sent: the highest mark that the answer may set. */
  caps: Map<Lane, number> | null
  /** Non-null for a sweep: when it was sent. */
  sweepSentMs: number | null
}

export type Marks = {
  /** Where to look now. `all`: also into lanes that seem idle, because somebody asks who has not looked yet. */
  look(queueId: number, all: boolean): Flight
  /** The answer: rows in the order of handing out; `full` when as many came as were asked for, so that more may follow. */
  landed(flight: Flight, rows: readonly { lane: Lane; position: number }[], full: boolean): void
  /** The lease failed, or left something ready behind: all as it was when it was sent. */
  failed(flight: Flight): void
  /** A commit has made messages ready, the lowest at `position`. */
  lower(queueId: number, lane: Lane, position: number): void
  /**
   * A hand-over into this lane: the lanes up to it in which something may be ready, each with its mark, so that the statement can make
   * sure that nothing is. It `landed` when it was handed, and is `dropped` otherwise.
   */
  hand(queueId: number, lane: Lane, all: boolean): Flight
  /** Nothing was learnt. */
  dropped(flight: Flight): void
  sweepDue(queueId: number): boolean
  /** What was announced may have been missed: begin anew. */
  reset(): void
  forget(queueId: number): void
}

/** A sweep is due after `sweepEveryMs()`, and never more often than fifty times what the last one took. */
export function createMarks(sweepEveryMs: () => number, swept: (durationMs: number) => void = () => {}): Marks {
  const queues = new Map<number, QueueMarks>()

  function marksOf(queueId: number): QueueMarks {
    let marks = queues.get(queueId)
    if (!marks) {
      const lanes = Array.from({ length: laneCount }, () => ({ mark: beginning, idle: false }))
      marks = { lanes, flights: new Set(), sweptAtMs: Number.NEGATIVE_INFINITY, sweepMs: 0 }
      queues.set(queueId, marks)
    }
    return marks
  }

  const due = (marks: QueueMarks): boolean =>
    monotonicMs() - marks.sweptAtMs >= Math.max(sweepEveryMs(), 50 * marks.sweepMs)

  function look(queueId: number, all: boolean): Flight {
    const marks = marksOf(queueId)
    const sweep = due(marks)
    const lanes = sweep ? allLanes.map((lane) => ({ lane, mark: beginning })) : select(marks, laneCount - 1, all)
    if (sweep) marks.sweptAtMs = monotonicMs()
    return takeOff(queueId, marks, lanes, sweep ? monotonicMs() : null)
  }

  function takeOff(queueId: number, marks: QueueMarks, lanes: Flight['lanes'], sweepSentMs: number | null): Flight {
    const flight: Flight = { queueId, lanes, caps: null, sweepSentMs }
    marks.flights.add(flight)
    return flight
  }

  function select(marks: QueueMarks, last: Lane, all: boolean): { lane: Lane; mark: number }[] {
    const found: { lane: Lane; mark: number }[] = []
    for (let lane = 0; lane <= last; lane++) {
      const state = marks.lanes[lane]
      if (state && (all || !state.idle)) found.push({ lane, mark: state.mark })
    }
    return found
  }

  function landed(flight: Flight, rows: readonly { lane: Lane; position: number }[], full: boolean): void {
    const marks = queues.get(flight.queueId)
    if (!marks?.flights.delete(flight)) return
    if (flight.sweepSentMs !== null) {
      marks.sweepMs = monotonicMs() - flight.sweepSentMs
      swept(marks.sweepMs)
    }
    const highest = new Map<Lane, number>()
    for (const row of rows) highest.set(row.lane, Math.max(row.position, highest.get(row.lane) ?? beginning))
    // A full answer stopped in its last row's lane; the lanes before it were looked through to their end.
    const stoppedIn = full ? (rows.at(-1)?.lane ?? -1) : laneCount
    for (const { lane } of flight.lanes) {
      const state = marks.lanes[lane]
      const cap = flight.caps?.get(lane) ?? Number.POSITIVE_INFINITY
      if (!state || lane > stoppedIn) continue
      state.mark = Math.max(state.mark, Math.min(highest.get(lane) ?? beginning, cap))
      if (lane < stoppedIn && cap === Number.POSITIVE_INFINITY) state.idle = true
    }
  }

  function failed(flight: Flight): void {
    const marks = queues.get(flight.queueId)
    if (!marks?.flights.delete(flight)) return
    if (flight.sweepSentMs !== null) marks.sweptAtMs = Number.NEGATIVE_INFINITY
    for (const { lane, mark } of flight.lanes) lowerLane(marks, lane, mark)
  }

  function lowerLane(marks: QueueMarks, lane: Lane, mark: number): void {
    const state = marks.lanes[lane]
    if (!state) return
    state.mark = Math.min(state.mark, mark)
    state.idle = false
    for (const flight of marks.flights) {
      flight.caps ??= new Map()
      flight.caps.set(lane, Math.min(flight.caps.get(lane) ?? mark, mark))
    }
  }

  return {
    look,
    landed,
    failed,
    lower(queueId, lane, position) {
      const marks = queues.get(queueId)
      // A queue that has never been looked at is looked at from the beginning.
      if (marks) lowerLane(marks, lane, position - 1)
    },
    hand(queueId, lane, all) {
      const marks = marksOf(queueId)
      return takeOff(queueId, marks, select(marks, lane, all), null)
    },
    dropped: (flight) => void queues.get(flight.queueId)?.flights.delete(flight),
    sweepDue: (queueId) => due(marksOf(queueId)),
    reset: () => queues.clear(),
    forget: (queueId) => void queues.delete(queueId),
  }
}
