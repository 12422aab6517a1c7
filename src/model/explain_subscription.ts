/** What keeps the webhooks of a queue from getting its messages. */
import { type ExplainFacts, type Reason, reason, type SubscriptionFacts, span } from './explain_facts.ts'
import type { Rate } from './rate.ts'

/** Of a topic's subscription whatever holds it holds the message. On a queue that several consume, only when all webhooks are held. */
export function webhookHolds(facts: ExplainFacts): Reason[] {
  const held = facts.subscriptions.map((each) => holdsOfOne(each, facts))
  if (!facts.queue.backlog && held.some((reasons) => reasons.length === 0)) return []
  return held.flat()
}

const disabledWords = {
  requested: 'somebody disabled it',
  gone: 'its endpoint answered 410 Gone',
  failing: 'its endpoint failed for days',
} as const

/** The first thing that has to change comes first; a disabled one is held by nothing else. */
function holdsOfOne(one: SubscriptionFacts, { now, leased, ahead }: ExplainFacts): Reason[] {
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
  if (one.circuit !== 'closed')
    return [reason('circuit_open', `${failuresOf(one)}: its circuit is half open, one message is tried.`, about)]
  if (leased >= one.concurrency)
    return [
      reason(
        'concurrency_full',
        `${leased} ${leased === 1 ? 'message of the queue is' : 'messages of the queue are'} leased, and the webhook ${one.id} makes at most ${calls(one.concurrency)} at a time.`,
        about,
      ),
    ]
  return one.rate === null ? [] : rateHold(one.id, one.rate, ahead, now)
}

const calls = (count: number): string => (count === 1 ? '1 call' : `${count} calls`)

/** Of a rate with less than a second between two, nothing that anybody would notice. */
function rateHold(subscription: string, { count, perMs }: Rate, ahead: number, now: Date): Reason[] {
  const everyMs = perMs / count
  const waitMs = ahead * everyMs
  if (Math.max(waitMs, everyMs) < 1000) return []
  const limit = `The webhook ${subscription} gets at most ${count} every ${span(perMs)}`
  if (ahead === 0)
    return [reason('rate_limited', `${limit}: its turn comes within ${span(everyMs)}.`, { subscription })]
  const until = new Date(now.getTime() + waitMs)
  const detail = `${limit}: with ${ahead} before it, its turn comes in about ${span(waitMs)} at the earliest.`
  return [reason('rate_limited', detail, { subscription, until })]
}

const failuresOf = ({ id, failures, failingSince }: SubscriptionFacts): string =>
  `The endpoint of ${id} failed ${failures} times in a row${failingSince ? `, without success since ${failingSince.toISOString()}` : ''}`

function endpointHold(one: SubscriptionFacts, until: Date, holdMs: number): Reason {
  const more = { subscription: one.id, until }
  const when = `until ${until.toISOString()}, ${span(holdMs)} from now`
  if (one.circuit === 'closed')
    return reason('endpoint_held', `The endpoint of ${one.id} asked to be left alone (Retry-After) ${when}.`, more)
  return reason('circuit_open', `${failuresOf(one)}: its circuit is open ${when}.`, more)
}
