/** What is known of a message's life, in order: what was kept of its past, and what lies ahead if nobody does anything. */
import type { AttemptFact, ExplainFacts, MessageFacts, TimelineEntry } from './explain_facts.ts'

export function timelineOf(facts: ExplainFacts): TimelineEntry[] {
  const { message, published, attempts } = facts
  const past: TimelineEntry[] = []
  if (published)
    past.push(
      entry(
        'published',
        published.at,
        `Published to the topic ${published.topic} with routing key ${published.routingKey}.`,
      ),
    )
  if (message) past.push(entry('sent', message.enqueuedAt, sentWords(message)))
  past.push(...attempts.map(attemptEntry))
  if (facts.holder) past.push(entry('leased', facts.holder.leasedAt, `Attempt ${message?.attempts ?? ''} began.`))
  if (facts.key?.blocked)
    past.push(entry('key_blocked', facts.key.blocked.since, `Its key was blocked by ${facts.key.blocked.messageId}.`))
  const died = message && deathOf(message)
  if (died) past.push(died)
  past.sort((a, b) => (a.at?.getTime() ?? 0) - (b.at?.getTime() ?? 0))
  // After it was sent; when exactly is not kept.
  if (message) past.splice(past.findIndex(({ event }) => event === 'sent') + 1, 0, ...undated(message, facts))
  return [...past, ...(message ? ahead(message, facts) : [])]
}

const entry = (event: TimelineEntry['event'], at: Date | null, detail: string, expected = false): TimelineEntry => ({
  at,
  event,
  detail,
  expected,
})

function sentWords({ headers }: MessageFacts): string {
  const { 'postern-schedule': schedule, 'postern-topic': topic } = headers
  if (topic !== undefined) return `Stored for this queue, published to the topic ${topic}.`
  return schedule === undefined ? 'Sent.' : `Sent by the schedule ${schedule}.`
}

function undated(message: MessageFacts, { attempts, holder }: ExplainFacts): TimelineEntry[] {
  const found: TimelineEntry[] = []
  if (message.moved && message.elsewhere === null)
    found.push(
      entry(
        'moved',
        null,
        'Placed anew since it was sent: a delay that ended, a retry, a redrive, a change, or its key moved up.',
      ),
    )
  const known = new Set(attempts.map(({ attempt }) => attempt)).size + (holder ? 1 : 0)
  if (message.attempts > known && message.elsewhere === null) {
    const count = message.attempts === 1 ? 'It was received once' : `It was received ${message.attempts} times`
    found.push(
      entry(
        'attempts_made',
        null,
        `${count}; when is kept for webhooks only, and of a lease under way in the memory of its gateway.`,
      ),
    )
  }
  return found
}

function attemptEntry({ subscription, attempt, at, succeeded, status, durationMs, error }: AttemptFact): TimelineEntry {
  const answer = status === null ? 'no answer' : `${status}`
  const what = `Webhook ${subscription}, attempt ${attempt}: ${answer} after ${Math.round(durationMs)} ms.`
  return entry(succeeded ? 'attempt_succeeded' : 'attempt_failed', at, error ? `${what} ${error}` : what)
}

function deathOf({ death, headers }: MessageFacts): TimelineEntry | null {
  if (death)
    return entry(
      'died',
      death.diedAt,
      `Became a dead letter: ${death.reason}.${death.lastError ? ` ${death.lastError}` : ''}`,
    )
  const at = Date.parse(headers['postern-died-at'] ?? '')
  if (Number.isNaN(at)) return null
  const { 'postern-dead-queue': queue, 'postern-dead-reason': why, 'postern-dead-error': error } = headers
  return entry('died', new Date(at), `Became a dead letter of the queue ${queue}: ${why}.${error ? ` ${error}` : ''}`)
}

function ahead(message: MessageFacts, { now }: ExplainFacts): TimelineEntry[] {
  const found: TimelineEntry[] = []
  const { dueAt, leasedUntil, expiresAt, place, elsewhere } = message
  if (elsewhere !== null || place === 'dead') return found
  if (dueAt && dueAt > now)
    found.push(
      message.attempts === 0
        ? entry('due', dueAt, 'Becomes ready.', true)
        : entry('next_attempt', dueAt, `Ready for attempt ${message.attempts + 1}.`, true),
    )
  if (leasedUntil && leasedUntil > now)
    found.push(entry('lease_ends', leasedUntil, 'Ready again, unless it is settled or its lease is extended.', true))
  if (expiresAt > now) found.push(entry('expires', expiresAt, 'Its time to live ends.', true))
  return found.sort((a, b) => (a.at?.getTime() ?? 0) - (b.at?.getTime() ?? 0))
}
