/**
 * That this gateway is there, and that others are: each has a row that says what it understands. For older ones, which say nothing, whoever
 * hears them makes the row: within milliseconds of the newcomer's first word, when it is just beginning to serve.
 */
import { type Loop, loop, monotonicMs, sleep } from '../base/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Cluster } from './cluster.ts'

export type Presence = {
  /** Before anything is said to others. May be tried again when it fails. */
  start(): Promise<void>
  /** After the first word to others, which they answer: from then on it is known who is there. Never throws. */
  listen(): Promise<void>
  /** After the last word to others. */
  stop(): Promise<void>
}

type Options = {
  db: Database
  cluster: Pick<Cluster, 'gateway' | 'acquaint' | 'peers'>
  log(event: string, fields?: Record<string, unknown>): void
}

const beatMs = 2_000
const aliveMs = 6_000
/** Others answer within a few milliseconds. */
const answersMs = 50
/** Longer than anybody counts as there without a word. */
const rememberedMs = 60_000

export function createPresence({ db, cluster, log }: Options): Presence {
  const { gateway } = cluster
  /** Who has left, and when: a word that was said before may come after. No gateway comes back under its name. */
  const gone = new Map<string, number>()
  let beating: Loop | undefined

  /** In this order, so that nobody who has left is entered again. */
  async function beat(): Promise<number> {
    await store.registerGateway(db, gateway, aliveMs)
    const there = cluster.peers().filter((each) => !gone.has(each))
    await store.enterHeard(db, there, aliveMs)
    await store.forgetHeard(db, [...gone.keys()])
    for (const [each, leftMs] of gone) if (monotonicMs() - leftMs > rememberedMs) gone.delete(each)
    return beatMs
  }

  const failed = (error: unknown): void => log('registering the gateway failed', { error })

  cluster.acquaint({
    // It is among those that were heard when the next step begins.
    met: () => beating?.nudge(),
    left(other) {
      gone.set(other, monotonicMs())
      beating?.nudge()
    },
  })

  return {
    start: () => store.registerGateway(db, gateway, aliveMs),
    async listen() {
      if (beating) return
      await sleep(answersMs)
      await beat().catch(failed)
      beating = loop(beat, { retryMs: beatMs, failed })
    },
    async stop() {
      if (!beating) return
      await beating.stop()
      await store.signOff(db, gateway).catch((error: unknown) => log('signing off the gateway failed', { error }))
    },
  }
}
