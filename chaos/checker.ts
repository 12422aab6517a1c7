/**
 * Judges a history: every promise is a rule, and what a rule reports cannot be explained by any order of events inside the windows that
 * the history gives. Pure.
 */
import type { Call, Delivery, History, QueueRules, Remaining, Send, Settle, State } from './history.ts'

export type Violation = { rule: string; detail: string }

/** All that is known of one message in one queue. */
type Message = {
  rules: QueueRules
  name: string
  send: Send | undefined
  deliveries: Delivery[]
  calls: Call[]
  remaining: Remaining[]
}
type Case = { messages: Message[]; settles: Map<string, Settle[]>; answers: Map<number, Delivery[]>; history: History }
type Rule = (message: Message, about: Case) => string[]

/** Answers round to milliseconds. */
const slackMs = 2

export function check(history: History): Violation[] {
  const about = caseOf(history)
  const found = [
    ...history.mishaps.map((detail) => ({ rule: 'mishap', detail })),
    ...about.messages.flatMap((message) =>
      Object.entries(rules).flatMap(([rule, broken]) =>
        broken(message, about).map((detail) => ({ rule, detail: `${message.rules.name} ${message.name}: ${detail}` })),
      ),
    ),
    ...keyOrder(about).map((detail) => ({ rule: 'order per key', detail })),
    ...counts(about).map((detail) => ({ rule: 'counts', detail })),
  ]
  return found
}

const rules: Record<string, Rule> = {
  'known messages only': ({ send }) => (send ? [] : ['was never sent']),
  'stored once': ({ send, deliveries, calls, remaining }) => {
    const ids = new Set([send?.id, ...deliveries.map(idOf), ...calls.map(idOf), ...remaining.map(idOf)].filter(Boolean))
    return ids.size > 1 || remaining.length > 1 ? [`is there several times: ${[...ids].join(' ')}`] : []
  },
  'nothing acknowledged is lost': (message, about) =>
    message.send?.id && message.remaining.length === 0 && !mayBeDone(message, about)
      ? [`${message.send.id} was acknowledged and is gone`]
      : [],
  'no two live leases': twoLeases,
  'a receipt is a fence': fence,
  'an ack is final': (message, about) =>
    acksOf(message, about).flatMap((ack) => [
      ...message.deliveries
        .filter((delivery) => delivery.askedMs > ack.answeredMs)
        .map(({ attempt }) => `attempt ${attempt} was delivered after an ack`),
      ...message.remaining.map(({ state }) => `is ${state} after an ack`),
    ]),
  'never early': early,
  'no more attempts than allowed': attempts,
  'dead letters': deadLetters,
  'nothing is stuck': ({ remaining }) =>
    remaining.filter(({ state }) => state !== 'dead').map(({ state }) => `was not delivered in the end: ${state}`),
}

const idOf = ({ id }: { id: string }): string => id

function caseOf(history: History): Case {
  const messages = new Map<string, Message>()
  const queues = new Map(history.queues.map((each) => [each.name, each]))
  const of = ({ queue, name }: { queue: string; name: string }): Message => {
    const known = messages.get(`${queue} ${name}`)
    if (known) return known
    const rules = queues.get(queue) ?? { name: queue, keyed: false, maxAttempts: 0 }
    const made: Message = { rules, name, send: undefined, deliveries: [], calls: [], remaining: [] }
    messages.set(`${queue} ${name}`, made)
    return made
  }
  for (const send of history.sends) of(send).send = send
  for (const delivery of history.deliveries) of(delivery).deliveries.push(delivery)
  for (const call of history.calls) of(call).calls.push(call)
  for (const remaining of history.remaining) of(remaining).remaining.push(remaining)
  return {
    messages: [...messages.values()],
    settles: grouped(history.settles, ({ receipt }) => receipt),
    answers: grouped(history.deliveries, ({ answer }) => answer),
    history,
  }
}

function grouped<T, K>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const group = groups.get(keyOf(item))
    if (group) group.push(item)
    else groups.set(keyOf(item), [item])
  }
  return groups
}

const settlesOf = (delivery: Delivery, { settles }: Case): Settle[] => settles.get(delivery.receipt) ?? []
const acksOf = ({ deliveries }: Message, about: Case): Settle[] =>
  deliveries
    .flatMap((each) => settlesOf(each, about))
    .filter(({ kind, outcome }) => kind === 'ack' && outcome === 'done')

/** An ack that may have taken place, or a webhook that said 2xx. */
const mayBeDone = ({ deliveries, calls }: Message, about: Case): boolean =>
  calls.some(({ status }) => status === 200) ||
  deliveries.some((each) => settlesOf(each, about).some((s) => s.kind === 'ack' && s.outcome !== 'lease_lost'))

/** Until when the lease certainly lives unless somebody settles it: extensions replace its end. */
function aloneUntilMs(delivery: Delivery, about: Case): number {
  let endMs = delivery.untilMs
  for (const { kind, outcome, untilMs, askedMs } of settlesOf(delivery, about)) {
    if (kind === 'extend' && outcome === 'done') endMs = untilMs
    else if (kind === 'extend' && outcome === 'unknown') endMs = Math.min(endMs, untilMs)
    else if (kind !== 'ack' && outcome !== 'lease_lost') endMs = Math.min(endMs, askedMs)
  }
  return endMs
}

/** Those before it in its answer with the same key: what ends one of them, other than an ack, ends this lease too. */
const runBefore = (delivery: Delivery, { answers }: Case): Delivery[] =>
  delivery.key === null
    ? []
    : (answers.get(delivery.answer) ?? []).filter((each) => each.key === delivery.key && each.place < delivery.place)

/** Until when the lease certainly lives. */
function liveUntilMs(delivery: Delivery, about: Case): number {
  const acked = settlesOf(delivery, about).filter(({ kind, outcome }) => kind === 'ack' && outcome !== 'lease_lost')
  return Math.min(
    aloneUntilMs(delivery, about),
    ...acked.map(({ askedMs }) => askedMs),
    ...runBefore(delivery, about).map((each) => aloneUntilMs(each, about)),
  )
}

/** Both were given, and neither had ended, when the later answer came. */
function twoLeases({ deliveries }: Message, about: Case): string[] {
  return deliveries.flatMap((a, at) =>
    deliveries.slice(at + 1).flatMap((b) => {
      const bothMs = Math.max(a.answeredMs, b.answeredMs)
      const endMs = Math.min(liveUntilMs(a, about), liveUntilMs(b, about))
      return bothMs + slackMs < endMs
        ? [`attempts ${a.attempt} and ${b.attempt} were both leased for ${endMs - bothMs} ms`]
        : []
    }),
  )
}

/** A receipt did something although a later delivery had been answered before, and that one had not ended the message. */
function fence(message: Message, about: Case): string[] {
  const { deliveries, rules, remaining } = message
  const isOverBy = (ms: number, except: Delivery) =>
    remaining.some(({ diedMs }) => diedMs !== null && diedMs <= ms) ||
    deliveries.some(
      (each) =>
        each !== except &&
        settlesOf(each, about).some((s) => s.kind === 'ack' && s.outcome !== 'lease_lost' && s.askedMs <= ms),
    )
  const taken = deliveries.flatMap((a) =>
    settlesOf(a, about)
      .filter(({ outcome }) => outcome === 'done')
      .filter(({ askedMs }) => deliveries.some((b) => b.attempt > a.attempt && b.answeredMs < askedMs))
      // An ack of what is done already is an ack.
      .filter(({ kind, answeredMs }) => kind !== 'ack' || !isOverBy(answeredMs, a))
      .map(({ kind }) => `attempt ${a.attempt} could ${kind} after it was taken over`),
  )
  if (!rules.keyed) return taken
  const parted = deliveries.flatMap((b) =>
    settlesOf(b, about)
      .filter(({ kind, outcome, answeredMs }) => kind === 'ack' && outcome === 'done' && !isOverBy(answeredMs, b))
      .filter(({ askedMs }) =>
        runBefore(b, about).some((a) =>
          settlesOf(a, about).some((s) => s.kind === 'nack' && s.outcome === 'done' && s.answeredMs < askedMs),
        ),
      )
      .map(() => `attempt ${b.attempt} could ack after one before it in the same lease was nacked`),
  )
  return [...taken, ...parted]
}

function early({ send, deliveries, calls }: Message, about: Case): string[] {
  const seen = [
    ...deliveries.map(({ attempt, answeredMs }) => ({ attempt, atMs: answeredMs })),
    ...calls.map(({ attempt, arrivedMs }) => ({ attempt, atMs: arrivedMs })),
  ]
  const dueMs = send ? send.askedMs + send.delayMs : 0
  const tooSoon = seen.filter(({ atMs }) => atMs + slackMs < dueMs)
  const afterNack = deliveries.flatMap((a) =>
    settlesOf(a, about)
      .filter(({ kind, outcome }) => kind === 'nack' && outcome === 'done')
      .flatMap(({ askedMs, delayMs }) =>
        seen.filter(({ attempt, atMs }) => attempt > a.attempt && atMs + slackMs < askedMs + delayMs),
      ),
  )
  return [...tooSoon, ...afterNack].map(({ attempt }) => `attempt ${attempt} came before its time`)
}

function attempts({ rules, deliveries, calls }: Message): string[] {
  const numbers = [...deliveries, ...calls].map(({ attempt }) => attempt)
  return [
    ...numbers.filter((n) => n > rules.maxAttempts).map((n) => `attempt ${n} of ${rules.maxAttempts}`),
    ...numbers.filter((n, at) => numbers.indexOf(n) !== at).map((n) => `two deliveries are attempt ${n}`),
  ]
}

function deadLetters({ rules, deliveries, remaining }: Message, about: Case): string[] {
  const rejected = deliveries.some((each) => settlesOf(each, about).some(({ kind }) => kind === 'reject'))
  return remaining
    .filter(({ state }) => state === 'dead')
    .flatMap(({ reason, attempts: had }) => {
      if (reason === 'max_attempts')
        return had === rules.maxAttempts ? [] : [`died after ${had} attempts of ${rules.maxAttempts}`]
      return reason === 'rejected' && rejected ? [] : [`died for a reason of nobody: ${reason}`]
    })
}

/** What was acknowledged before another of its key was asked for must be done before that one is delivered, or come before it in the same answer. */
function keyOrder(about: Case): string[] {
  const keyed = about.messages.filter(({ rules, send }) => rules.keyed && send?.key != null)
  return [...grouped(keyed, ({ rules, send }) => `${rules.name} ${send?.key}`)].flatMap(([key, messages]) => {
    const firsts = messages.map((message) => ({ message, doneMs: doneMs(message, about) }))
    return messages.flatMap((later) =>
      later.deliveries.flatMap((delivery) =>
        firsts
          .filter(
            ({ message: { send, deliveries }, doneMs: endMs }) =>
              send?.id &&
              send.answeredMs < (later.send?.askedMs ?? 0) &&
              endMs > delivery.answeredMs &&
              !deliveries.some(({ answer, place }) => answer === delivery.answer && place < delivery.place),
          )
          .map(({ message }) => `${key}: ${later.name} was delivered before ${message.name} was done`),
      ),
    )
  })
}

/** The earliest time at which the message may have been over. */
const doneMs = ({ deliveries, remaining }: Message, about: Case): number =>
  Math.min(
    ...remaining.map(({ diedMs }) => diedMs ?? Number.POSITIVE_INFINITY),
    ...deliveries
      .flatMap((each) => settlesOf(each, about))
      .filter(({ kind, outcome }) => kind === 'ack' && outcome !== 'lease_lost')
      .map(({ askedMs }) => askedMs),
  )

function counts({ history }: Case): string[] {
  const states: State[] = ['ready', 'delayed', 'leased', 'dead']
  return history.counts.flatMap((count) =>
    states.flatMap((state) => {
      const listed = history.remaining.filter((each) => each.queue === count.queue && each.state === state).length
      return listed === count[state] ? [] : [`${count.queue}: ${count[state]} ${state}, but ${listed} are listed`]
    }),
  )
}
