/**
 * Why a message is where it is, in codes and in words, and what is known of its life so far. Decided from facts that were read at one
 * moment; what was not kept (when a delivery by `receive` began, once it is over) is not made up.
 */
import {
  countedAhead,
  type ExplainCode,
  type ExplainFacts,
  type ExplainState,
  type Explanation,
  type Holder,
  type MessageFacts,
  type Reason,
  reason,
  span,
} from './explain_facts.ts'
import { webhookHolds } from './explain_subscription.ts'
import { timelineOf } from './explain_timeline.ts'
import type { DeathReason } from './message.ts'

/** A message is late when nobody has moved it for so long. */
const lateMs = 5_000

export function explain(id: string, facts: ExplainFacts): Explanation {
  const { message, queue } = facts
  const reasons = message ? reasonsOf(message, facts) : goneReasons(facts)
  return {
    id,
    queue: queue.name,
    state: message ? stateOf(message, facts.now) : 'gone',
    summary: reasons.map(({ detail }) => detail).join(' '),
    reasons,
    attempts: message?.attempts ?? Math.max(0, ...facts.attempts.map(({ attempt }) => attempt)),
    maxAttempts: queue.maxAttempts,
    holder: facts.holder,
    timeline: timelineOf(facts),
  }
}

function stateOf(message: MessageFacts, now: Date): ExplainState {
  if (message.elsewhere !== null || message.place === 'dead') return 'dead'
  if (message.place === 'scheduled') return 'delayed'
  if (message.leasedUntil) return 'leased'
  return message.expiresAt <= now ? 'expired' : 'ready'
}

function reasonsOf(message: MessageFacts, facts: ExplainFacts): Reason[] {
  if (message.elsewhere !== null) return [inDeadLetterQueue(message, message.elsewhere)]
  if (message.death) return [deadReason(message.death, facts)]
  if (message.leasedUntil) return [leaseReason(message, message.leasedUntil, facts)]
  if (message.place === 'scheduled' && message.dueAt)
    return [...dueReasons(message, message.dueAt, facts), ...held(facts)]
  if (message.expiresAt <= facts.now) return [expiredReason(message, facts)]
  if (message.place === 'waiting') {
    const due = message.dueAt && message.dueAt > facts.now ? dueReasons(message, message.dueAt, facts) : []
    return [...keyReasons(message, facts), ...due, ...held(facts)]
  }
  if (message.attempts >= facts.queue.maxAttempts)
    return [
      reason(
        'attempts_spent',
        `It has had ${message.attempts} attempts, and the queue allows ${facts.queue.maxAttempts}.`,
      ),
    ]
  const ofQueue = held(facts)
  const ofWebhooks = webhookHolds(facts)
  // From a queue that is no webhook's own, whoever asks gets it all the same; when somebody seems to, that is said.
  const isHeld = ofQueue.length > 0 || (ofWebhooks.length > 0 && (facts.queue.backlog || !facts.consumed))
  return [...ofQueue, ...ofWebhooks, ...lineReasons(facts, isHeld)]
}

/** What keeps the whole queue from being handed out. */
function held({ queue, leased }: ExplainFacts): Reason[] {
  const found: Reason[] = []
  if (queue.paused)
    found.push(reason('queue_paused', `The queue ${queue.name} is paused: it hands out nothing until it is resumed.`))
  if (queue.maxLeased !== null && leased >= queue.maxLeased)
    found.push(
      reason(
        'max_leased',
        `${leased} ${leased === 1 ? 'message of the queue is' : 'messages of the queue are'} leased, as many as its max_leased allows.`,
      ),
    )
  return found
}

function lineReasons({ ahead, consumed, queue, subscriptions }: ExplainFacts, isHeld: boolean): Reason[] {
  const others = ahead > countedAhead ? `more than ${countedAhead}` : `${ahead}`
  const found =
    ahead > 0
      ? [
          reason(
            'in_line',
            `It is ready; ${others} ${ahead === 1 ? 'message is' : 'messages are'} handed out before it.`,
          ),
        ]
      : isHeld
        ? []
        : [reason('next_in_line', 'It is ready, and the next receive gets it.')]
  const isServed = subscriptions.some((each) => each.disabled === null)
  if (!isHeld && !consumed && !isServed && !queue.backlog)
    found.push(
      reason(
        'no_consumer',
        'Nothing was leased or settled in the last minute: nobody seems to receive from this queue.',
      ),
    )
  return found
}

function dueReasons(message: MessageFacts, due: Date, { now, attempts }: ExplainFacts): Reason[] {
  const leftMs = due.getTime() - now.getTime()
  if (leftMs < -lateMs)
    return [
      reason(
        'upkeep_late',
        `It was due ${span(-leftMs)} ago (${due.toISOString()}) and is still with the delayed ones: is a gateway with the role upkeep running?`,
      ),
    ]
  const when = leftMs > 0 ? `until ${due.toISOString()}, ${span(leftMs)} from now` : 'and is due at this moment'
  if (message.attempts === 0) return [reason('delayed', `It is delayed ${when}.`, { until: due })]
  const last = attempts.at(-1)
  const why = last && !last.succeeded && last.error ? `: ${last.error}` : '.'
  return [
    reason('backing_off', `It waits for its next attempt ${when}. Attempt ${message.attempts} failed${why}`, {
      until: due,
    }),
  ]
}

function leaseReason(message: MessageFacts, until: Date, { now, holder, queue }: ExplainFacts): Reason {
  const leftMs = until.getTime() - now.getTime()
  if (leftMs < -lateMs)
    return reason(
      'upkeep_late',
      `Its lease ran out ${span(-leftMs)} ago (${until.toISOString()}) and nobody has taken it back: is a gateway with the role upkeep running?`,
    )
  if (leftMs <= 0)
    return reason('lease_over', `Its lease has run out (${until.toISOString()}): it is ready again within a second.`)
  const times = `attempt ${message.attempts} of ${queue.maxAttempts}`
  return reason(
    'leased',
    `It is leased ${holderWords(holder)} until ${until.toISOString()}, ${span(leftMs)} from now (${times}).`,
    { until, ...(holder?.subscription ? { subscription: holder.subscription } : {}) },
  )
}

function holderWords(holder: Holder | null): string {
  if (!holder)
    return '(by whom is kept only in the memory of the gateway that leased it: it has restarted, has forgotten, or does not answer)'
  const name = holder.keyName === null ? '' : ` (${holder.keyName})`
  const who = holder.subscription
    ? `to the webhook ${holder.subscription}`
    : holder.key === 'root'
      ? 'to the root key'
      : `to the API key ${holder.key}${name}`
  return `${who} through gateway ${holder.gateway} since ${holder.leasedAt.toISOString()}`
}

function keyReasons(message: MessageFacts, { queue, key }: ExplainFacts): Reason[] {
  const blocked = key?.blocked
  if (blocked)
    return [
      reason(
        'key_blocked',
        `Its key ${message.key} is blocked since ${blocked.since.toISOString()} by the dead letter ${blocked.messageId} (${blocked.reason}): unblock the key with retry or drop.`,
        { messageId: blocked.messageId },
      ),
    ]
  const before =
    key && key.before > 0
      ? `, and ${key.before > countedAhead ? `more than ${countedAhead}` : key.before} more ${key.before === 1 ? 'waits' : 'wait'} before it`
      : ''
  if (queue.order !== 'keyed')
    return [
      reason(
        'key_turn',
        `Keys take turns, and others are first; messages of its key ${message.key} are handed out before it${before}.`,
      ),
    ]
  const first = key?.first
  if (!first)
    return [
      reason('key_busy', `It waits behind its key ${message.key}, whose next message is just moving up${before}.`),
    ]
  const doing = { ready: 'is ready', leased: 'is leased', delayed: 'waits for its next attempt' }[first.state]
  const until = first.until ? ` until ${first.until.toISOString()}` : ''
  return [
    reason(
      'key_busy',
      `Message ${first.id} of its key ${message.key} ${doing}${until} and must be done first${before}.`,
      {
        messageId: first.id,
      },
    ),
  ]
}

const deadCodes = {
  max_attempts: 'dead_max_attempts',
  rejected: 'dead_rejected',
  expired: 'dead_expired',
  gone: 'dead_gone',
} as const satisfies Record<DeathReason, ExplainCode>

const deadWords: Record<DeathReason, string> = {
  max_attempts: 'it had had all its attempts',
  rejected: 'a consumer refused it',
  expired: 'its time to live was over',
  gone: 'its endpoint answered 410 Gone',
}

function deadReason(death: NonNullable<MessageFacts['death']>, { message }: ExplainFacts): Reason {
  const error = death.lastError ? ` Last error: ${death.lastError}` : ''
  const attempts = message?.attempts ?? 0
  return reason(
    deadCodes[death.reason],
    `It is a dead letter since ${death.diedAt.toISOString()}, after ${attempts} ${attempts === 1 ? 'attempt' : 'attempts'}: ${deadWords[death.reason]}.${error}`,
  )
}

/** The headers that a letter carries in a dead-letter queue are all that is left of its death. */
function inDeadLetterQueue({ headers }: MessageFacts, queue: string): Reason {
  const error = headers['postern-dead-error'] ? ` Last error: ${headers['postern-dead-error']}` : ''
  const why = headers['postern-dead-reason'] ?? 'unknown'
  const words = why in deadWords ? deadWords[why as DeathReason] : why
  return reason(
    'in_dead_letter_queue',
    `It died ${headers['postern-died-at'] ?? ''} after ${attemptsIn(headers['postern-dead-attempts'])} (${words}), and is in the dead-letter queue ${queue}.${error}`,
    { queue },
  )
}

const attemptsIn = (count = 'some'): string => (count === '1' ? '1 attempt' : `${count} attempts`)

function expiredReason({ expiresAt }: MessageFacts, { queue }: ExplainFacts): Reason {
  const fate = !queue.deadLetterExpired
    ? 'removed'
    : queue.deadLetterQueue === null
      ? 'kept as a dead letter'
      : `moved to ${queue.deadLetterQueue}`
  return reason(
    'expired',
    `Its time to live ended ${expiresAt.toISOString()}. Nobody gets it any more; at the next look it is ${fate}.`,
  )
}

function goneReasons({ attempts }: ExplainFacts): Reason[] {
  const taken = attempts.filter(({ succeeded }) => succeeded).at(-1)
  if (taken)
    return [
      reason(
        'delivered',
        `It is done: the webhook ${taken.subscription} took it ${taken.at.toISOString()} with ${taken.status ?? 'an answer'}.`,
        { subscription: taken.subscription },
      ),
    ]
  const last = attempts.at(-1)
  return [
    reason(
      'removed',
      `It is not in the queue any more: acknowledged by a consumer, deleted, purged or expired. Its last webhook call${last ? `, ${last.at.toISOString()},` : ''} failed.`,
    ),
  ]
}
