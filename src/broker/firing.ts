/**
 * Sending what schedules send, inside the transaction that will record it. Many go together in the statements of an ordinary batch of sends;
 * when one of these fails, its part of the transaction is undone and each fire is tried by itself.
 */
import { BrokerError, type NewMessage, type Schedule } from '../model/index.ts'
import type { Database } from '../store/index.ts'
import type { HandOver } from './handover.ts'
import { createPublisher } from './publish.ts'
import { createQueues } from './queues.ts'
import { createTopics } from './topics.ts'
import { createWriter } from './write.ts'

/** What is told about messages that were stored; see write.ts. */
type Writing = Parameters<typeof createWriter>[0]
export type Told = Pick<Writing, 'appended' | 'scheduled' | 'sent' | 'elect' | 'order' | 'gateway'>

export type Fire = { schedule: Schedule; atMs: number }
export type Firing = { atMs: number; messageId: string | null; error: BrokerError | null }

/** So many at the most are tried one by one, for so long are the others' locks held. */
const oneByOne = 20

/**
 * Fires them all, in the order of their targets, so that two gateways lock queues in one order; null in the place of those that were not
 * tried. A fire that is `unavailable` did nothing and may come later. `told` must be kept until the commit.
 */
export async function firingAll(inside: Database, fires: readonly Fire[], told: Told): Promise<(Firing | null)[]> {
  const outcomes = new Map<Fire, Firing>()
  const toTopic = ({ schedule }: Fire): boolean => 'topic' in schedule.target
  // A part for each kind: what is wrong with a topic's bounded queue must not undo the sends.
  for (const part of [fires.filter((fire) => !toTopic(fire)), fires.filter(toTopic)]) {
    part.sort((a, b) => compare(targetOf(a), targetOf(b)))
    const together = part.length > 1 ? await firingTogether(inside, part, told) : null
    if (together) part.forEach((fire, at) => void outcomes.set(fire, together[at] as Firing))
    else
      for (const fire of part.slice(0, oneByOne))
        outcomes.set(fire, await firing(inside, fire.schedule, fire.atMs, told))
  }
  return fires.map((fire) => outcomes.get(fire) ?? null)
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
const targetOf = ({ schedule: { target } }: Fire): string => ('topic' in target ? target.topic : target.queue)

/** null: something went wrong with a statement, and nothing was done. */
async function firingTogether(inside: Database, fires: readonly Fire[], told: Told): Promise<Firing[] | null> {
  const later = keep(told)
  try {
    const firings = await inside.together(async (part) => {
      const send = senderOn(part, later.told)
      const sent = await Promise.allSettled(fires.map(({ schedule, atMs }) => send(schedule, atMs)))
      return sent.map((each, at) => firingFrom(each, fires[at]?.atMs ?? 0))
    })
    later.tell()
    return firings
  } catch {
    // Whatever it was, whoever it concerns will tell when it is tried alone.
    return null
  }
}

/** Throws what is not this one's alone. */
function firingFrom(sent: PromiseSettledResult<string>, atMs: number): Firing {
  if (sent.status === 'fulfilled') return { atMs, messageId: sent.value, error: null }
  const error: unknown = sent.reason
  if (error instanceof BrokerError && refusals.has(error.code)) return { atMs, messageId: null, error }
  throw error
}

/** What a statement that went well answers; a topic's full queue is an error of the statement. */
const refusals: ReadonlySet<string> = new Set(['queue_not_found', 'topic_not_found', 'queue_full'])

/** One fire by itself; what refuses it is undone and returned. `told` must be kept until the commit. */
export async function firing(inside: Database, schedule: Schedule, atMs: number, told: Told): Promise<Firing> {
  const later = keep(told)
  try {
    const messageId = await inside.together((part) => senderOn(part, later.told)(schedule, atMs))
    later.tell()
    return { atMs, messageId, error: null }
  } catch (error) {
    if (error instanceof BrokerError) return { atMs, messageId: null, error }
    const detail = 'The message could not be stored; the log has more.'
    return { atMs, messageId: null, error: new BrokerError('internal', detail, { cause: error }) }
  }
}

/** Whoever sends in one turn leaves together. Answers with the message's id. */
function senderOn(db: Database, told: Told): (schedule: Schedule, atMs: number) => Promise<string> {
  const publish = createPublisher({ db, topics: createTopics(db), handOver: noHands, ...told })
  const write = createWriter({ db, queues: createQueues(db, () => true), handOver: noHands, ...told })

  return async ({ name, target, message: { headers, ...message } }, atMs) => {
    const more = { 'postern-schedule': name, 'postern-fire-time': new Date(atMs).toISOString() }
    const sending: NewMessage = {
      ...message,
      headers: { ...headers, ...more },
      deliverAtMs: null,
      dedupId: null,
    }
    if ('topic' in target) return (await publish(target.topic, target.routingKey, sending)).id
    const [sent] = await write(target.queue, [sending], true)
    if (!sent || sent instanceof Error) throw sent ?? new Error('send: no answer')
    return sent.id
  }
}

/** What is not committed yet is handed to nobody. */
const noHands: HandOver = { reserve: () => ({ hands: [], flights: [], probes: [] }), finish: () => {} }

/** Hints that are given when `tell` is called. */
export function keep({ gateway, order, appended, scheduled, sent, elect }: Told): { told: Told; tell(): void } {
  const kept: (() => void)[] = []
  const later =
    <Words extends unknown[]>(hint: (...words: Words) => void) =>
    (...words: Words) =>
      void kept.push(() => hint(...words))
  return {
    told: {
      gateway,
      order,
      appended: later(appended),
      scheduled: later(scheduled),
      sent: later(sent),
      elect: later(elect),
    },
    tell: () => {
      for (const hint of kept) hint()
    },
  }
}
