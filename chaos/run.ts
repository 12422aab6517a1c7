/** One run: load, faults, calm, and what is left; the verdict is the checker's. Rejects when its signal aborts. */
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Agent } from 'undici'
import * as actors from './actors.ts'
import { check, type Violation } from './checker.ts'
import { type Cluster, startCluster } from './cluster.ts'
import { type FaultName, faultNames, planOf, rollOver, wreak } from './faults.ts'
import { emptyHistory, type History, type Remaining, type State } from './history.ts'
import { createRandom } from './random.ts'

export type RunOptions = {
  seed: number
  seconds: number
  /** Which may happen; all, when not given. Empty: none. */
  faults?: readonly FaultName[]
  /** Between two faults, on average. */
  gapMs?: number
  /** Instead of faults: the gateways are restarted one after the other, and no client may notice. */
  rolling?: boolean
  /** A checkout of an older version, which one gateway runs until it is restarted first. */
  previous?: string | null
  log(text: string): void
  /** Ends the run early; what it started is ended all the same. */
  signal?: AbortSignal
}

export type Verdict = { violations: Violation[]; history: History }

const states: State[] = ['ready', 'delayed', 'leased', 'dead']
const drainSeconds = 60

export async function run(options: RunOptions): Promise<Verdict> {
  const { seed, log, signal = new AbortController().signal } = options
  // Many wait for it.
  setMaxListeners(0, signal)
  const random = createRandom(seed)
  const names = options.faults ?? faultNames
  const history = emptyHistory(actors.queues)
  const mishap = (text: string): void => void history.mishaps.push(text)
  const ownDisk = names.includes('fill the disk') && !options.rolling
  const cluster = await startCluster({ mishap, log, previous: options.previous ?? null, ownDisk })
  if (ownDisk && cluster.disk === null) log('skipped: fill the disk (no file system of its own can be mounted here)')
  const world: actors.World = {
    history,
    random: random.child('clients'),
    urls: [`http://127.0.0.1:${cluster.front.port}`],
    agent: actors.createAgent(),
    tries: options.rolling ? 30 : 4,
    calm: false,
  }
  try {
    const storm = () => storming(options, cluster, mishap, signal, names)
    await play(world, storm, { log, signal })
    if (options.rolling)
      for (const { queue, name, id } of history.sends) if (id === null) mishap(`a send failed: ${queue} ${name}`)
    return { violations: check(history), history }
  } finally {
    await (world.agent as Agent).destroy()
    await cluster.stop()
  }
}

async function storming(
  { seed, seconds, gapMs = 2500, rolling, log }: RunOptions,
  cluster: Cluster,
  mishap: (text: string) => void,
  signal: AbortSignal,
  names: readonly FaultName[],
): Promise<void> {
  const plan = rolling ? [] : planOf(createRandom(seed).child('faults'), names, seconds * 1000, gapMs)
  for (const { atMs, fault, gateway, forMs } of plan)
    log(`${(atMs / 1000).toFixed(1).padStart(6)} s  ${fault} (gateway ${gateway}, ${forMs} ms)`)
  const over = sleep(seconds * 1000, null, { signal }).catch(() => {})
  if (rolling) {
    await sleep(seconds * 250, null, { signal }).catch(() => {})
    await rollOver(cluster, mishap)
  } else await wreak(cluster, plan, mishap, signal)
  await over
  signal.throwIfAborted()
}

/** Clients at work while `storm` lasts, and then until nothing is left to do; fills the history. */
export async function play(
  world: actors.World,
  storm: () => Promise<unknown>,
  { log, signal }: { log(text: string): void; signal: AbortSignal },
): Promise<void> {
  const sending = new AbortController()
  const receiving = new AbortController()
  const sink = await actors.startSink(world)
  let producers: Promise<void>[] = []
  let consumers: Promise<void>[] = []
  try {
    await actors.setUp(world, sink.url)
    producers = [0, 1, 2, 3, 4, 5].map((number) => actors.produce(world, number, sending.signal))
    consumers = ['work', 'work', 'keyed', 'keyed', 'keyed', 'limit', 'fan.a', 'fan.b'].map((queue, number) =>
      actors.consume(world, queue, number, receiving.signal),
    )
    await storm()
    sending.abort()
    await Promise.all(producers)
    log(`calm: ${world.history.sends.length} sends, ${world.history.deliveries.length} deliveries so far`)
    world.calm = true
    await drained(world, signal)
    receiving.abort()
    await Promise.all(consumers)
    await takeStock(world)
  } finally {
    sending.abort()
    receiving.abort()
    await Promise.allSettled([...producers, ...consumers])
    await sink.close()
  }
}

type Counts = Record<State, number>
const countsOf = async (world: actors.World, queue: string): Promise<Counts> =>
  (await actors.insist(world, 'GET', `/v1/queues/${queue}/stats`)) as Counts

/** Until no queue has anything to deliver, or it has taken too long: the checker says then what is stuck. */
async function drained(world: actors.World, signal: AbortSignal): Promise<void> {
  const untilMs = performance.now() + drainSeconds * 1000
  while (performance.now() < untilMs) {
    const counts = await Promise.all(actors.queues.map(({ name }) => countsOf(world, name)))
    if (counts.every(({ ready, delayed, leased }) => ready + delayed + leased === 0)) return
    await sleep(200, null, { signal })
  }
}

/** What is left, listed and counted. Counts may be a little older than the list. */
async function takeStock(world: actors.World): Promise<void> {
  for (const { name: queue } of actors.queues) {
    const left: Remaining[] = []
    for (const state of states) left.push(...(await listed(world, queue, state)))
    let counts = await countsOf(world, queue)
    for (let tries = 0; tries < 20 && !agree(counts, left); tries++) {
      await sleep(200)
      counts = await countsOf(world, queue)
    }
    const { ready, delayed, leased, dead } = counts
    world.history.counts.push({ queue, ready, delayed, leased, dead })
    world.history.remaining.push(...left)
  }
}

const agree = (counts: Counts, left: Remaining[]): boolean =>
  states.every((state) => counts[state] === left.filter((each) => each.state === state).length)

type Page = {
  data: { id: string; body: string; attempts: number; reason?: string; died_at?: string }[]
  next_cursor: string | null
}

async function listed(world: actors.World, queue: string, state: State): Promise<Remaining[]> {
  const left: Remaining[] = []
  let cursor: string | null = ''
  while (cursor !== null) {
    const query = new URLSearchParams({ state, limit: '100', ...(cursor ? { cursor } : {}) })
    const page = (await actors.insist(world, 'GET', `/v1/queues/${queue}/messages?${query}`)) as Page
    for (const { id, body: name, attempts, reason = null, died_at: diedAt } of page.data)
      left.push({ queue, name, id, state, attempts, reason, diedMs: diedAt ? Date.parse(diedAt) : null })
    cursor = page.next_cursor
  }
  return left
}
