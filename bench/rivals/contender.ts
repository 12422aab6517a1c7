/** What every contender can do, so that all are asked for the same: durable sends, and cycles of a send, a take and a settle. */
import { once, type Place } from '../place.ts'
import type { Scenario } from '../rounds.ts'

export type Standing = 'ready' | 'leased' | 'delayed'

/** A queue, with whatever tables and connections it needs apart from those of the contender's other lines. */
export type Line = {
  /** One call that stores `count` messages of 200 bytes; answered when they are durable. How many. */
  send(count: number): Promise<number>
  /** The same, and then as many are taken and settled, durably too; these need not be the ones that this caller sent. How many. */
  cycle(count: number): Promise<number>
  /** Puts messages there that stay there. */
  stand(kind: Standing, count: number): Promise<unknown>
  /** Empties it, between rounds. */
  purge(): Promise<unknown>
  /** For a transaction that holds back vacuum: where the tables are. null: they are in no Postgres. */
  databaseUrl: string | null
  close(): Promise<unknown>
}

export type Contender = {
  name: string
  /** `queues`: over so many the messages are spread, in turn. */
  open(place: Place, options: { queues: number }): Promise<Line>
  /** Which processes serve besides this one and Postgres, and whether Postgres has a part in it. */
  costs: Pick<Scenario, 'serving' | 'elsewhere'>
}

/** Opened when it is first asked for; closed when the part is over, or with the place. */
export type Lazy = { line(): Promise<Line>; close(): Promise<void> }

export function lazily(place: Place, contender: Contender, queues = 1): Lazy {
  let opened: Line | undefined
  const close = once(async () => {
    await opened?.close()
  })
  const line = once(async () => {
    opened = await contender.open(place, { queues })
    place.closing.push(close)
    return opened
  })
  return { line, close }
}

export const lineName = (() => {
  let lines = 0
  return (): string => `line_${++lines}`
})()

/**
 * For contenders that push to handlers instead of being asked: lets as many messages through as were sent, so that what stands in
 * the queue stays, and tells each caller when as many as it let through are done.
 */
export type Gate = {
  /** Lets `count` more through; answered when `count` more are done, those of earlier callers first. */
  grant(count: number): Promise<void>
  /** A handler waits here for its turn. */
  enter(): Promise<void>
  done(count?: number): void
  /** Lets everybody through, for good. */
  open(): void
}

export function createGate(): Gate {
  let granted = 0
  let granting = 0
  let finished = 0
  const entering: (() => void)[] = []
  const callers: { at: number; answer: () => void }[] = []
  return {
    grant(count) {
      granting += count
      const answered = new Promise<void>((answer) => callers.push({ at: granting, answer }))
      granted += count
      for (; granted > 0 && entering.length > 0; granted--) entering.shift()?.()
      return answered
    },
    async enter() {
      if (granted > 0) granted--
      else await new Promise<void>((go) => entering.push(go))
    },
    open() {
      granted = Number.POSITIVE_INFINITY
      for (const go of entering.splice(0)) go()
    },
    done(count = 1) {
      finished += count
      while (callers[0] && callers[0].at <= finished) callers.shift()?.answer()
    },
  }
}

/** Answers when a call has been made for each of `0 … count - 1` in pieces of at most `size`, `atOnce` at a time. */
export async function inPieces(
  count: number,
  size: number,
  atOnce: number,
  call: (count: number) => Promise<unknown>,
): Promise<void> {
  let left = count
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (left > 0) {
        const piece = Math.min(size, left)
        left -= piece
        await call(piece)
      }
    }),
  )
}
