/** Work on many messages that goes on after its request was answered, whichever gateway does it. */
import type { LetterFilter } from './letter.ts'
import type { Rate } from './rate.ts'

export const taskStates = ['running', 'done', 'cancelled', 'failed'] as const
export type TaskState = (typeof taskStates)[number]

/** Dead letters of a queue that become ready again. */
export type RedriveRequest = {
  /** The queue that gets them; null: the one each died in. */
  to: string | null
  filter: LetterFilter
  /** At most so many letters; null: all. */
  limit: number | null
  /** null: as fast as it goes. */
  rate: Rate | null
  /** Only count what matches. */
  dryRun: boolean
}

export type Task = {
  /** `task_…` */
  id: string
  kind: 'redrive'
  queue: string
  to: string | null
  state: TaskState
  dryRun: boolean
  /** Letters looked at, those of them that the filter matches, and what became of these. */
  scanned: number
  matched: number
  moved: number
  /** Changed or taken by somebody else meanwhile, too large for the queue, or without a queue to go to. They stay. */
  skipped: number
  /** Why it failed; while it runs, what it waits for. */
  error: string | null
  createdAt: Date
  updatedAt: Date
  finishedAt: Date | null
}

export const taskLimits = {
  letters: { min: 1, max: 1_000_000_000 },
} as const
