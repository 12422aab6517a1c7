/**
 * Which queues are of concern to which side, as gateways tell each other: that a receiver `waits` in one, or has `looked` into it lately.
 * It decides how soon others are told what became ready there, never whether: a word that is lost costs up to `otherwiseMs`. What was said
 * holds for a few seconds, so it is said again before, and nobody has to take anything back.
 */
import { monotonicMs } from '../base/index.ts'

export const concerns = ['waits', 'looked'] as const
export type Concern = (typeof concerns)[number]

export type Attention = {
  /** Here: true when it is time that the others hear it. Then it counts as said. */
  isToBeSaid(concern: Concern, queueId: number): boolean
  /** Another gateway says so. */
  heard(concern: Concern, queueId: number): void
  /** How soon others should be told of what became ready there. */
  withinMs(queueId: number): number
  /** Drops what holds no longer. */
  forgetOld(): void
}

/** Whoever waits should hear of it in the time of a statement. */
export const waitsMs = 3
/** A look passes over what was not committed then; until it is told of it, so does the next. Measured: from here on, to tell costs little. */
const lookedMs = 25
const otherwiseMs = 1_000

export const sayEveryMs = 2_000
/** Whoever has listened for so long knows what the others have said. */
export const heldMs = 5_000

/** By concern and queue: when that was. */
const nothingYet = () => ({ waits: new Map<number, number>(), looked: new Map<number, number>() })

export function createAttention(nowMs = monotonicMs): Attention {
  const said = nothingYet()
  const others = nothingYet()
  const isSince = (atMs: number | undefined, ms: number): boolean => atMs !== undefined && nowMs() - atMs < ms

  return {
    isToBeSaid(concern, queueId) {
      if (isSince(said[concern].get(queueId), sayEveryMs)) return false
      said[concern].set(queueId, nowMs())
      return true
    },
    heard: (concern, queueId) => void others[concern].set(queueId, nowMs()),
    withinMs(queueId) {
      if (isSince(others.waits.get(queueId), heldMs)) return waitsMs
      return isSince(others.looked.get(queueId), heldMs) ? lookedMs : otherwiseMs
    },
    forgetOld() {
      for (const [times, ms] of [
        [said.waits, sayEveryMs],
        [said.looked, sayEveryMs],
        [others.waits, heldMs],
        [others.looked, heldMs],
      ] as const)
        for (const [queueId, atMs] of times) if (!isSince(atMs, ms)) times.delete(queueId)
    },
  }
}
