/** The edge that pushes: one more consumer of the broker, which delivers to webhooks. */
import { monotonicMs, randomToken, wallMs } from '../base/index.ts'
import type { Assignment, Broker } from '../broker/index.ts'
import { type Attempt, type Delivery, type Observe, type Tracing, testMessageId, verdictOf } from '../model/index.ts'
import { addressPolicy } from './address.ts'
import { requestFor } from './request.ts'
import { type Roster, startRoster } from './roster.ts'
import { createSender, type SendResult } from './sender.ts'

export { parseAllowPrivate } from './address.ts'
export { webhookRequest } from './request.ts'
export { newSecret, sign } from './signature.ts'

export type PushOptions = {
  broker: Broker
  /** true: any address; a list of CIDRs: those too; false: public addresses only. */
  allowPrivate: boolean | readonly string[]
  /** Postern's, for the User-Agent. */
  version: string
  observe?: Pick<Observe, 'attempt'>
  /** Absent: no traces. */
  tracing?: Tracing | undefined
  log(event: string, fields?: Record<string, unknown>): void
}

export type Push = {
  /** Takes its share of the subscriptions and delivers, until `stop`. */
  start(): void
  /** Hands over; requests under way may finish within `graceMs`. */
  stop(graceMs: number): Promise<void>
  /** Sends one made-up message now, whatever the subscription's state. Throws subscription_not_found. */
  test(subscription: string): Promise<Attempt>
  /** The subscriptions that this gateway delivers for. */
  webhooks(): { subscription: string; underWay: number; circuitOpen: boolean }[]
}

export function createPush({ broker, allowPrivate, version, observe, tracing, log }: PushOptions): Push {
  const sender = createSender({ allow: addressPolicy(allowPrivate) })
  let roster: Roster | undefined

  async function test(id: string): Promise<Attempt> {
    const assignment = await broker.desk.find(id)
    const at = new Date(wallMs())
    const delivery = testMessage(assignment, at)
    const { headers, body } = requestFor(assignment, delivery, at.getTime(), version)
    const { url, timeoutMs } = assignment
    const result = await sender.send({ url, headers, body, timeoutMs, signal: new AbortController().signal })
    const attempt = attemptFrom(assignment, delivery, at, headers, result)
    // That it cannot be recorded does not undo it.
    const recorded = broker.desk.recordAttempt({ ...attempt, subscription: assignment.number })
    const attemptId = await recorded.catch((error: unknown) => {
      log('recording an attempt failed', { subscription: assignment.id, error })
      return null
    })
    return { ...attempt, id: attemptId ?? attempt.id }
  }

  return {
    start() {
      roster ??= startRoster({ broker, sender, version, ...(observe ? { observe } : {}), tracing, log })
    },
    async stop(graceMs) {
      const startMs = monotonicMs()
      await roster?.stop(graceMs)
      await sender.close()
      log('webhooks stopped', { duration_ms: Math.round(monotonicMs() - startMs) })
    },
    test,
    webhooks: () => roster?.states() ?? [],
  }
}

function testMessage({ id, source }: Assignment, at: Date): Delivery {
  const data = { subscription: id, ...('topic' in source ? { topic: source.topic } : { queue: source.queue }) }
  return {
    id: `${testMessageId}_${randomToken().toString(36)}`,
    receipt: '',
    body: Buffer.from(JSON.stringify({ type: 'postern.test', timestamp: at.toISOString(), data })),
    contentType: 'application/json',
    headers: {},
    key: null,
    priority: 5,
    attempt: 1,
    enqueuedAt: at,
    leaseExpiresAt: at,
  }
}

function attemptFrom(
  { retry }: Assignment,
  { id: messageId, attempt }: Delivery,
  at: Date,
  requestHeaders: Record<string, string>,
  { outcome, durationMs, responseHeaders, responseBody }: SendResult,
): Attempt {
  const verdict = verdictOf(outcome, { attempt, maxAttempts: 2, retry, nowMs: at.getTime(), random: 0 })
  return {
    id: 'att_test',
    messageId,
    attempt,
    at,
    outcome: verdict.action === 'settle' ? 'succeeded' : 'failed',
    status: outcome.kind === 'answer' ? outcome.status : null,
    durationMs,
    requestHeaders,
    responseHeaders,
    responseBody,
    error: verdict.action === 'settle' ? null : verdict.error,
    nextAttemptAt: null,
  }
}
