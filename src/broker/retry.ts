/** A receive that may be retried: the first leases, and its retries get what is left of those leases, through any gateway. */
import { createHash } from 'node:crypto'
import type { Queue } from '../model/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'
import type { Taken } from './lines.ts'
import type { Asked, Receiver } from './receive.ts'

export const hashOf = (retryKey: string): Buffer => createHash('sha256').update(retryKey).digest()

/** Nothing when the time to wait is over, and when nothing of the first's leases is left. */
export async function receiveAgain(
  db: Database,
  receiver: Receiver,
  queue: Queue,
  asked: Asked & { hash: Buffer },
): Promise<Taken[]> {
  const known = await recalled(db, queue, asked.hash)
  if (known) return known
  const taken = await receiver.receive(queue, asked)
  // With nothing leased, another with the same key may have been first.
  return taken.length > 0 || asked.signal.aborted ? taken : ((await recalled(db, queue, asked.hash)) ?? [])
}

async function recalled(db: Database, queue: Queue, hash: Buffer): Promise<Taken[] | null> {
  const found = await store.recall(db, queue.id, hash)
  return found ? found.rows.map((row) => ({ row, token: found.token })) : null
}
