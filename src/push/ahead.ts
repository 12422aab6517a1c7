/**
 * How many messages may wait here for a fast endpoint, so that it finds the next one as soon as it has answered. Only while it really
 * answers fast: what waits here nobody else can have.
 */

export type Ahead = {
  /** A call has begun. */
  begun(nowMs: number): void
  /** A call is over. */
  finished(durationMs: number, nowMs: number): void
  /** A message has come. */
  came(bytes: number): void
  /** How many may wait while `limit` calls are under way. */
  wanted(limit: number): number
  /** How many of those that wait while `limit` calls are under way may stay, for their turn comes soon. */
  kept(limit: number): number
  /** While all that may be are under way: how long until that is a stall, when none ends before; 0: it is one. */
  stallMs(nowMs: number): number
  /** It was one: an endpoint that answers nothing is not noticed by its answers. */
  stalled(): void
}

/** Who answers within this finds messages waiting. */
const fastMs = 200
/** From here on it is slow, and what waits goes back. Between the two nothing changes, lest it be leased and returned by turns. */
const slowMs = 300
const smallBytes = 64 * 1024
const aheadMs = 50
const most = 200
/** So slow counts as slow at once, whatever was before. Some twenty fast answers make up for it. */
const verySlowMs = 2_000
/** What counts of every one but the last few. */
const share = 1 / 8

/** What is not known yet counts as slow. */
export function createAhead(): Ahead {
  let latencyMs = slowMs
  let bytes = 0
  let movedMs = 0

  function learn(durationMs: number): void {
    // No answer is so slow that it is to be remembered for long.
    if (durationMs >= verySlowMs) latencyMs = verySlowMs
    else latencyMs += (durationMs - latencyMs) * share
  }

  return {
    begun(nowMs) {
      movedMs = nowMs
    },
    finished(durationMs, nowMs) {
      movedMs = nowMs
      learn(durationMs)
    },
    came(length) {
      bytes += (length - bytes) * share
    },
    /** What it does in the time of a few leases. */
    wanted(limit) {
      if (latencyMs >= fastMs || bytes >= smallBytes) return 0
      return Math.max(limit, Math.min(most, Math.ceil((limit * aheadMs) / Math.max(latencyMs, 0.1))))
    },
    kept: (limit) => (latencyMs >= slowMs ? 0 : Math.floor((limit * slowMs) / Math.max(latencyMs, 0.1))),
    stallMs: (nowMs) => Math.max(0, movedMs + slowMs - nowMs),
    stalled: () => learn(verySlowMs),
  }
}
