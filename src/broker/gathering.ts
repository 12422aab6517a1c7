/** What all of the broker's batches have in common: how long a call may wait for its statement, and how it is refused. */
import { BrokerError, type GatheredKind, type Observe } from '../model/index.ts'
import * as store from '../store/index.ts'

/** Then the database is too slow or away, and a caller is better served by another gateway or a little later. */
const maxWaitMs = 5_000
/** Measured with 64 connections that send one message each: a fifth less CPU in the gateway, a tenth less in Postgres. */
export const beside = { weight: 64, afterMs: 5 }

/** Measured with 256 callers of single sends: a fifth more messages a second on two processors; shares of 64 gain nothing. */
const worthLane = 100

/** `refusal`: what a caller reads who does not fit, or has waited in vain. */
export const gathering = (refusal: string, counted?: { kind: GatheredKind; observe: Observe }) => ({
  maxWaitMs,
  beside,
  worthLane,
  ran: (calls: number) => counted?.observe.gathered(counted.kind, calls),
  overloaded: () => new BrokerError('unavailable', refusal, { retryAfterS: 1 }),
  harmless: store.certainlyFailed,
})
