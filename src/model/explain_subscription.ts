/** What keeps the webhooks of a queue from getting its messages. */
import { type ExplainFacts, type Reason, reason, type SubscriptionFacts, span } from './explain_facts.ts'

/**
 * Of a topic's subscription, whose backlog is its own, whatever holds it holds the message. On a queue that several consume, only when all
 * webhooks are held and nobody else was seen to receive.
 */
export function webhookHolds(facts: ExplainFacts): Reason[] {
  const { subscriptions, queue, consumed } = facts
  if (subscriptions.length === 0) return []
  const held = subscriptions.map((each) => holdsOfOne(each, facts))
  if (!queue.backlog && (consumed || held.some((reasons) => reasons.length === 0))) return []
  return held.flat()
}

const disabledWords = {
  requested: 'somebody disabled it',
  gone: 'its endpoint answered 410 Gone',
  failing: 'its endpoint failed for days',
} as const

/** The first thing that has to change comes first; a disabled one is held by nothing else. */
function holdsOfOne(one: SubscriptionFacts, { now, leased, ahead, queue }: ExplainFacts): Reason[] {
  const about = { subscription: one.id }
  if (one.disabled !== null)
    return [
      reason('subscription_disabled', `The webhook ${one.id} is disabled: ${disabledWords[one.disabled]}.`, about),
    ]
  if (!one.served)
    return [
      reason(
        'subscription_unserved',
        `No gateway delivers for the webhook ${one.id}: is one with the role push running?`,
        about,
      ),
    ]
  const holdMs = (one.heldUntil?.getTime() ?? 0) - now.getTime()
  if (one.heldUntil && holdMs > 0) return [endpointHold(one, one.heldUntil, holdMs)]
  if (queue.backlog && leased >= one.concurrency)
    return [
      reason(
        'concurrency_full',
        `${leased} calls of the webhook ${one.id} are under way, as many as its concurrency allows.`,
        about,
      ),
    ]
  if (one.rate === null || !queue.backlog) return []
  const { count, perMs } = one.rate
  const waitMs = (ahead * perMs) / count
  if (waitMs < 1000) return []
  const until = new Date(now.getTime() + waitMs)
  return [
    reason(
      'rate_limited',
      `The webhook ${one.id} gets at most ${count} every ${span(perMs)}: with ${ahead} before it, its turn comes in about ${span(waitMs)} at the earliest.`,
      { ...about, until },
    ),
  ]
}

function endpointHold(one: SubscriptionFacts, until: Date, holdMs: number): Reason {
  const more = { subscription: one.id, until }
  const when = `until ${until.toISOString()}, ${span(holdMs)} from now`
  if (one.circuit === 'closed')
    return reason('endpoint_held', `The endpoint of ${one.id} asked to be left alone (Retry-After) ${when}.`, more)
  const since = one.failingSince ? `, without success since ${one.failingSince.toISOString()}` : ''
  return reason(
    'circuit_open',
    `The endpoint of ${one.id} failed ${one.failures} times in a row${since}: its circuit is open ${when}.`,
    more,
  )
}
