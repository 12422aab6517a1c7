/**
 * That this gateway is there, and that others are: each has a row that says what it understands. For older ones, which say nothing, whoever
 * hears them makes the row; it is there a moment after the newcomer's first word, which comes before it serves anybody.
 */
import { type Loop, loop } from '../base/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'

export type Presence = {
  /** Another gateway was heard for the first time. */
  met(): void
  /** Another gateway has said that it leaves. */
  left(gateway: string): void
  /** Before anything is said to others. May be tried again when it fails. */
  start(): Promise<void>
  /** After the last word to others. */
  stop(): Promise<void>
}

type Options = {
  db: Database
  gateway: string
  /** Others that were heard lately. */
  heard(): string[]
  log(event: string, fields?: Record<string, unknown>): void
}

const beatMs = 2_000
const aliveMs = 6_000

export function createPresence({ db, gateway, heard, log }: Options): Presence {
  const gone = new Set<string>()
  let beating: Loop | undefined

  /** In this order, so that nobody who has left is entered again. */
  async function beat(): Promise<number> {
    await store.registerGateway(db, gateway, aliveMs)
    await store.enterHeard(db, heard(), aliveMs)
    const left = [...gone]
    await store.forgetHeard(db, left)
    for (const each of left) gone.delete(each)
    return beatMs
  }

  return {
    met: () => beating?.nudge(),
    left(other) {
      gone.add(other)
      beating?.nudge()
    },
    async start() {
      await store.registerGateway(db, gateway, aliveMs)
      beating ??= loop(beat, {
        retryMs: beatMs,
        failed: (error) => log('registering the gateway failed', { error }),
      })
    },
    async stop() {
      if (!beating) return
      await beating.stop()
      await store.forgetGateway(db, gateway).catch((error: unknown) => log('signing off the gateway failed', { error }))
    },
  }
}
