/** Between the receiver, which leases rows, and who asked: messages with receipts, and what happens to leases that nobody will settle. */
import { type Delivery, messageId, priorityOf, type Receipt, type receiptCodec } from '../model/index.ts'
import type { Database, MoveKind } from '../store/index.ts'
import type { Holds } from './holds.ts'
import type { Taken } from './lines.ts'
import type { Queues } from './queues.ts'
import type { Receiver } from './receive.ts'
import { hashOf, receiveAgain } from './retry.ts'
import type { Settler } from './settle.ts'
import type { Received, ReceiveOptions } from './types.ts'

/** Does not wait. A lease that cannot be ended now ends by itself. */
export type EndLeases = (taken: readonly Taken[], kind: MoveKind) => void

export function endingLeases(
  settler: Pick<Settler, 'release'>,
  log: (event: string, fields?: Record<string, unknown>) => void,
): EndLeases {
  return (taken, kind) => {
    const items = taken.map((each) => ({
      receipt: receiptOf(each),
      kind: each.row.expired && kind !== 'return' ? ('expired' as const) : kind,
      delayMs: 0,
      error: null,
    }))
    settler.release(items).catch((error: unknown) => log('giving back failed', { error }))
  }
}

const receiptOf = ({ row, token }: Taken): Receipt => ({
  queueId: row.queue_id,
  lane: row.lane,
  position: row.position,
  id: row.id,
  token,
})

type Options = {
  db: Database
  queues: Pick<Queues, 'byName'>
  receiver: Receiver
  holds: Pick<Holds, 'taken' | 'ended'>
  endLeases: EndLeases
  /** Throws unavailable while the gateway starts. */
  receipts(): ReturnType<typeof receiptCodec>
}

/** The broker's `receive`. */
export function createReceive({ db, queues, receiver, holds, endLeases, receipts }: Options) {
  /** What was handed out but did not arrive. */
  function giveBack(taken: readonly Taken[]): void {
    holds.ended(taken.map(receiptOf), false)
    endLeases(taken, 'return')
  }

  function deliveryOf(taken: Taken): Delivery {
    const { row } = taken
    return {
      id: messageId(row.id),
      receipt: receipts().encode(receiptOf(taken)),
      body: row.body ?? Buffer.alloc(0),
      contentType: row.content_type,
      headers: row.headers ?? {},
      key: row.key,
      priority: priorityOf(row.lane),
      attempt: row.attempts,
      enqueuedAt: new Date(row.enqueued_ms),
      leaseExpiresAt: new Date(row.leased_until_ms),
    }
  }

  /** What is more than so many of one key goes back, uncounted and in its order. */
  function limited(taken: Taken[], perKey: number | undefined): Taken[] {
    if (perKey === undefined) return taken
    const seen = new Map<string, number>()
    const kept: Taken[] = []
    const tooMany: Taken[] = []
    for (const each of taken) {
      const { key } = each.row
      const nth = key === null ? 0 : (seen.get(key) ?? 0) + 1
      if (key !== null) seen.set(key, nth)
      if (nth <= perKey) kept.push(each)
      else tooMany.push(each)
    }
    if (tooMany.length > 0) endLeases(tooMany, 'return')
    return kept
  }

  return async function receive(name: string, options: ReceiveOptions): Promise<Received> {
    const { max, waitMs, leaseMs, signal, subscription = 0, retryKey = null, perKey } = options
    const by = subscription === 0 ? (options.by ?? '') : `#${subscription}`
    receipts()
    const queue = await queues.byName(name)
    const asked = {
      max,
      // Of what is delivered side by side, only one of a key may be out.
      perKey: subscription === 0 ? (perKey ?? max) : 1,
      waitMs,
      leaseMs: leaseMs ?? queue.leaseMs,
      fence: subscription,
      signal,
    }
    if (retryKey !== null) {
      const taken = limited(await receiveAgain(db, receiver, queue, { ...asked, hash: hashOf(retryKey) }), perKey)
      holds.taken(taken, by, asked.leaseMs)
      return { messages: taken.map(deliveryOf), giveBack: async () => {} }
    }
    const taken = limited(await receiver.receive(queue, { ...asked, hash: null }), perKey)
    if (taken.length > 0 && signal.aborted) {
      endLeases(taken, 'return')
      return { messages: [], giveBack: async () => {} }
    }
    holds.taken(taken, by, asked.leaseMs)
    return { messages: taken.map(deliveryOf), giveBack: async () => giveBack(taken) }
  }
}
