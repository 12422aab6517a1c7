/** What becomes of a delivery by the verdict on its call: how it is settled, and what the log says of it. */
import { wallMs } from '../base/index.ts'
import type { Assignment, AttemptReport } from '../broker/index.ts'
import { type Delivery, parseTraceparent, type SettleAction, type Verdict } from '../model/index.ts'
import type { SendResult } from './sender.ts'

/** The gateway's own doing: again at once. The attempt counts, for it may have arrived. */
export const brokenOff = (receipt: string): SettleAction => ({
  action: 'nack',
  receipt,
  delayMs: 0,
  error: 'The attempt was broken off by the gateway.',
})

export const atOnce = (verdict: Verdict): Verdict => (verdict.action === 'retry' ? { ...verdict, delayMs: 0 } : verdict)

export function actionFor(verdict: Verdict, receipt: string): SettleAction {
  switch (verdict.action) {
    case 'settle':
      return { action: 'ack', receipt }
    case 'retry':
      return { action: 'nack', receipt, delayMs: Math.round(verdict.delayMs), error: verdict.error }
    case 'dead':
      return { action: 'reject', receipt, reason: verdict.error, death: verdict.reason }
  }
}

export type Call = { of: Assignment; delivery: Delivery; at: Date; requestHeaders: Record<string, string> }

/** An entry of the log of attempts. */
export function reportOf(call: Call, result: SendResult, verdict: Verdict): AttemptReport {
  const succeeded = verdict.action === 'settle'
  return {
    subscription: call.of.number,
    messageId: call.delivery.id,
    attempt: call.delivery.attempt,
    at: call.at,
    outcome: succeeded ? 'succeeded' : 'failed',
    status: result.outcome.kind === 'answer' ? result.outcome.status : null,
    durationMs: result.durationMs,
    requestHeaders: call.requestHeaders,
    responseHeaders: result.responseHeaders,
    responseBody: result.responseBody,
    error: succeeded ? null : verdict.error,
    nextAttemptAt: verdict.action === 'retry' ? new Date(wallMs() + verdict.delayMs) : null,
  }
}

/** The fields of a log line. */
export const logFields = (
  { of, requestHeaders }: Call,
  { messageId, attempt, status, error, durationMs }: AttemptReport,
  verdict: Verdict,
): Record<string, unknown> => ({
  subscription: of.id,
  message_id: messageId,
  trace_id: parseTraceparent(requestHeaders.traceparent)?.traceId,
  attempt,
  verdict: verdict.action,
  status,
  failure: error ?? undefined,
  duration_ms: durationMs,
})
