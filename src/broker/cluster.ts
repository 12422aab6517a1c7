/**
 * What this gateway and the others tell each other: what became ready where, which queue's settings changed, that a key is
 * gone. Said at most every few milliseconds, together, and what became ready where nobody else is known to wait or look
 * less often. A heartbeat that does not come back shows that listening has silently died; a peer whose heartbeat stays
 * away is taken for dead. A gateway that knows of no other does not tell what became ready; whoever meets another for the
 * first time tells it to look again, for what was not told until then.
 */
import { randomUUID } from 'node:crypto'
import { after, type Loop, loop, monotonicMs, soon, type Timer } from '../base/index.ts'
import type { Appended, Database, Listening } from '../store/index.ts'
import * as store from '../store/index.ts'
import { type Concern, concerns, createAttention, heldMs, waitsMs } from './attention.ts'

export type ClusterEvents = {
  appended(appended: Appended): void
  /** Something other than an append may let receivers of this queue go on. */
  rung(queueId: number): void
  queueChanged(queueId: number): void
  keysChanged(): void
  subscriptionChanged(subscription: number): void
  subscriptionsFree(): void
  /** Another gateway asks; null: this one has no answer. */
  asked(question: string): string | null
  /** Announcements may have been missed. */
  lost(): void
}

/** Who wants to know which others there are. */
export type Acquaintances = {
  /** Another gateway was heard for the first time. */
  met(): void
  /** Another gateway has said that it leaves. */
  left(gateway: string): void
}

export type Cluster = {
  gateway: string
  /** Nobody is told while nobody else is there. */
  appended(appended: Appended): void
  /** Nor this. */
  rung(queueId: number): void
  /** A receiver of this gateway waits there, or has looked; may be called as often as it is so. */
  concerned(concern: Concern, queueId: number): void
  queueChanged(queueId: number): void
  keysChanged(): void
  /** Told to this gateway too. */
  subscriptionChanged(subscription: number): void
  subscriptionsFree(): void
  /** Asks all others; the first that answers, or null when nobody does within `waitMs`. */
  ask(question: string, waitMs: number): Promise<{ gateway: string; text: string } | null>
  acquaint(on: Acquaintances): void
  /** Whether announcements arrive, as far as is known. */
  listening(): boolean
  /** Other gateways that were heard lately. */
  peers(): string[]
  /** Whether anybody else may be serving the same queues. */
  hasPeers(): boolean
  start(): Promise<void>
  stop(): Promise<void>
}

const heartbeatMs = 2_000
const silenceMs = 7_000
const helloWaitMs = 3_000
/** The gateway's name and the word, with room to spare. */
const mostBesideItems = 32

type Peer = { heardMs: number /** It says where it waits and looks. Older ones do not. */; isAttentive: boolean }
const attentive = 'attentive'
const alive = `alive ${attentive}`

type Options = {
  db: Database
  listenUrl: string | null
  on: ClusterEvents
  log(event: string, fields?: Record<string, unknown>): void
}

export function createCluster({ db, listenUrl, on, log }: Options): Cluster {
  const gateway = randomUUID().slice(0, 8)
  const peers = new Map<string, Peer>()
  const attention = createAttention()
  const pendingAppends = new Map<string, Appended>()
  const pendingWords = new Set<string>()
  const pendingConcerns = { waits: new Set<number>(), looked: new Set<number>() }
  let planned: { dueMs: number; timer: Timer } | undefined
  let isSoon = false
  let listeningSinceMs = Number.POSITIVE_INFINITY
  let announcedMs = Number.NEGATIVE_INFINITY
  let listening: Listening | undefined
  let heardSelfMs = Number.NEGATIVE_INFINITY
  let heartbeat: Loop | undefined
  let firstHeard: (() => void) | undefined
  const questions = new Map<string, (answer: { gateway: string; text: string } | null) => void>()
  let questionsAsked = 0
  let acquainted: Acquaintances | undefined
  let isEverybodyAttentive = true

  function countAttentive(): void {
    isEverybodyAttentive = [...peers.values()].every((peer) => peer.isAttentive)
  }

  const isListening = (): boolean => monotonicMs() - heardSelfMs < silenceMs

  /** Whether anybody else may be serving the same queues. */
  const hasPeers = (): boolean => peers.size > 0 || !isListening()

  /** How soon the others want to hear of this queue. At once, as long as somebody may wait who could not say so, or was not heard. */
  function withinMs(queueId: number): number {
    const isInformed = isListening() && monotonicMs() - listeningSinceMs >= heldMs
    return isInformed && isEverybodyAttentive ? attention.withinMs(queueId) : waitsMs
  }

  function say(word: string, ms = waitsMs): void {
    pendingWords.add(word)
    announceWithin(ms)
  }

  /** Counted from what was said last. */
  function announceWithin(ms: number): void {
    const dueMs = announcedMs + ms
    if (isSoon || (planned && planned.dueMs <= dueMs)) return
    planned?.timer.cancel()
    planned = undefined
    const restMs = dueMs - monotonicMs()
    if (restMs > 0) planned = { dueMs, timer: after(restMs, announce) }
    else {
      isSoon = true
      soon(announce)
    }
  }

  function announce(): void {
    planned = undefined
    isSoon = false
    announcedMs = monotonicMs()
    void flush()
  }

  async function flush(): Promise<void> {
    const appends = [...pendingAppends.values()].map((item) => `${item.queueId}:${item.lane}:${item.position}`)
    const words = [...pendingWords, ...wordsOf('append', appends)]
    for (const concern of concerns) {
      words.push(...wordsOf(concern, [...pendingConcerns[concern]]))
      pendingConcerns[concern].clear()
    }
    pendingAppends.clear()
    pendingWords.clear()
    const payloads = words.map((word) => `${gateway} ${word}`)
    // What cannot be said now is found by the others' sweeps.
    await store.notify(db, payloads).catch((error: unknown) => log('announce failed', { error }))
  }

  function heard(payload: string): void {
    const [from = '', word, ...rest] = payload.split(' ')
    if (from === gateway) {
      if (word === 'alive') {
        heardSelfMs = monotonicMs()
        firstHeard?.()
      }
      return
    }
    if (word === 'leaving') {
      peers.delete(from)
      countAttentive()
      acquainted?.left(from)
      return
    }
    if (!peers.has(from)) {
      say(`look ${from}`)
      acquainted?.met()
    }
    const isAttentive = peers.get(from)?.isAttentive || (word === 'alive' && rest[0] === attentive)
    peers.set(from, { heardMs: monotonicMs(), isAttentive })
    countAttentive()
    if (word === 'look' && rest[0] === gateway) on.lost()
    else if (word === 'append') {
      for (const item of rest) {
        const [queueId = 0, lane = 0, position = 0] = item.split(':').map(Number)
        on.appended({ queueId, lane, position })
      }
    } else if (word === 'waits' || word === 'looked') {
      for (const queueId of rest) attention.heard(word, Number(queueId))
      // What has been put off may be about these queues.
      if (planned) announceWithin(waitsMs)
    } else if (word === 'ring') on.rung(Number(rest[0]))
    else if (word === 'queue') on.queueChanged(Number(rest[0]))
    else if (word === 'keys') on.keysChanged()
    else if (word === 'subscription') on.subscriptionChanged(Number(rest[0]))
    else if (word === 'free') on.subscriptionsFree()
    else if (word === 'who') answer(from, rest)
    else if (word === 'is' && rest[0] === gateway)
      questions.get(rest[1] ?? '')?.({ gateway: from, text: rest.slice(2).join(' ') })
  }

  function answer(asker: string, [id = '', ...question]: string[]): void {
    const text = on.asked(question.join(' '))
    if (text !== null) say(`is ${asker} ${id} ${text}`)
  }

  async function ask(question: string, waitMs: number): Promise<{ gateway: string; text: string } | null> {
    if (peers.size === 0) return null
    const id = `${++questionsAsked}`
    let timer: Timer | undefined
    const answered = new Promise<{ gateway: string; text: string } | null>((resolve) => {
      questions.set(id, resolve)
      timer = after(waitMs, () => resolve(null))
    })
    say(`who ${id} ${question}`)
    return await answered.finally(() => {
      timer?.cancel()
      questions.delete(id)
    })
  }

  function listen(): void {
    if (listenUrl === null) return
    listening = store.listen(
      { databaseUrl: listenUrl, prepare: true },
      {
        heard,
        listening: () => {
          listeningSinceMs = monotonicMs()
          on.lost()
          say(alive)
        },
        failed: (error) => log('listen failed', { error }),
      },
    )
  }

  async function beat(): Promise<number> {
    if (listenUrl === null) return 60_000
    if (!isListening()) {
      log('listening again', {})
      on.lost()
      await listening?.close().catch(() => {})
      listen()
      return helloWaitMs
    }
    attention.forgetOld()
    for (const [peer, { heardMs }] of peers) {
      if (monotonicMs() - heardMs < silenceMs) continue
      // It may have died holding rows that others skipped.
      peers.delete(peer)
      countAttentive()
      on.lost()
    }
    say(alive)
    return heartbeatMs
  }

  return {
    gateway,
    appended(item) {
      if (!hasPeers()) return
      const name = `${item.queueId}:${item.lane}`
      const known = pendingAppends.get(name)
      if (!known || item.position < known.position) pendingAppends.set(name, item)
      announceWithin(withinMs(item.queueId))
    },
    rung(queueId) {
      if (hasPeers()) say(`ring ${queueId}`, withinMs(queueId))
    },
    concerned(concern, queueId) {
      if (!hasPeers() || !attention.isToBeSaid(concern, queueId)) return
      pendingConcerns[concern].add(queueId)
      announceWithin(waitsMs)
    },
    queueChanged: (queueId) => say(`queue ${queueId}`),
    keysChanged: () => say('keys'),
    subscriptionChanged(subscription) {
      say(`subscription ${subscription}`)
      on.subscriptionChanged(subscription)
    },
    subscriptionsFree() {
      say('free')
      on.subscriptionsFree()
    },
    ask,
    acquaint(on) {
      acquainted = on
    },
    listening: isListening,
    peers: () => [...peers.keys()],
    hasPeers,
    async start() {
      if (listenUrl === null) return
      const began = new Promise<void>((resolve) => {
        firstHeard = resolve
        after(helloWaitMs, resolve)
      })
      listen()
      await began
      heartbeat = loop(beat, { retryMs: heartbeatMs, failed: (error) => log('heartbeat failed', { error }) })
    },
    async stop() {
      await heartbeat?.stop()
      pendingWords.add('leaving')
      planned?.timer.cancel()
      await flush()
      await listening?.close().catch(() => {})
    },
  }
}

/** One word for so many items that none is too long for a payload. */
function wordsOf(word: string, items: readonly (string | number)[]): string[] {
  const words: string[] = []
  let line = ''
  for (const item of items) {
    const next = ` ${item}`
    if (line.length + next.length > store.maxPayload - mostBesideItems) {
      words.push(word + line)
      line = ''
    }
    line += next
  }
  if (line !== '') words.push(word + line)
  return words
}
