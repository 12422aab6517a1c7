/** The circuit of an endpoint: after many failures in a row it is left alone for a while, and then tried with one message. */
import type { CircuitState } from './subscription.ts'

export type Circuit = {
  state: CircuitState
  /** Failures since the last success. */
  failures: number
  /** How often it has opened since the last success. */
  opened: number
  /** Milliseconds on the caller's clock; while open, when to try again. */
  untilMs: number
}

export const circuitLimits = {
  /** Failures in a row that open it. */
  failures: 10,
  /** The first time; doubled each time after. */
  holdMs: 2_000,
  mostHoldMs: 60_000,
} as const

export const closedCircuit: Circuit = { state: 'closed', failures: 0, opened: 0, untilMs: 0 }

/** How many may be under way at once. An open circuit whose time is over is half open: one. */
export function permits(circuit: Circuit, nowMs: number): number {
  if (circuit.state === 'closed') return Number.POSITIVE_INFINITY
  return circuit.untilMs <= nowMs ? 1 : 0
}

/** The first of several that are under way decides: one success closes it. */
export const afterSuccess = (): Circuit => closedCircuit

/**
 * A failure. It opens the circuit when there have been enough, and again when the one that was tried failed; failures of what was
 * already under way when it opened change nothing but the count. `random` in [0, 1): up to a tenth is added to the hold.
 */
export function afterFailure(circuit: Circuit, nowMs: number, random: number): Circuit {
  const failures = circuit.failures + 1
  const isWaiting = circuit.state !== 'closed' && circuit.untilMs > nowMs
  if (isWaiting || failures < circuitLimits.failures) return { ...circuit, failures }
  const holdMs = Math.min(circuitLimits.mostHoldMs, circuitLimits.holdMs * 2 ** Math.min(circuit.opened, 10))
  return { state: 'open', failures, opened: circuit.opened + 1, untilMs: nowMs + holdMs * (1 + random / 10) }
}

/** As another gateway left it: open until then, and tried with one message after. */
export function inherited(state: CircuitState, failures: number, untilMs: number): Circuit {
  if (state === 'closed') return { ...closedCircuit, failures: Math.min(failures, circuitLimits.failures - 1) }
  return { state: 'open', failures, opened: 1, untilMs }
}
