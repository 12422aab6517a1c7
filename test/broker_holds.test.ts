/** Who holds a lease is forgotten when it is over, also when it ended where this gateway could not see it. */
import { expect, test } from 'vitest'
import { createHolds, forgetEnded } from '../src/broker/holds.ts'
import type { Taken } from '../src/broker/lines.ts'
import { connect } from '../src/store/index.ts'
import { brokersOn, receive, send, settle } from './support/broker.ts'

test('leases that were settled through another gateway, or taken over, are found to be over; the others stay', async () => {
  const { db: database, brokers, stop } = await brokersOn(2)
  const [a, b] = brokers as [(typeof brokers)[0], (typeof brokers)[0]]
  const db = connect({ databaseUrl: database.url, pool: 3, prepare: true })
  let clockMs = 0
  const holds = createHolds(() => {}, { nowMs: () => clockMs })
  await a.admin.putQueue('q', {})
  await send(a, 'q', '1', '2', '3')
  const deliveries = await receive(a, 'q', 3)
  const rows = await database.sql<
    Taken['row'][]
  >`select queue_id, lane, position::float8 as position, lease_token::float8 as token,
    0::float8 as leased_until_ms from postern.messages order by position`
  holds.taken(
    rows.map((row) => ({ row, token: Number((row as unknown as { token: number }).token) })),
    'key_a',
    30_000,
  )
  const names = rows.map(({ queue_id: queueId, lane, position, ...row }) => ({
    ...{ queueId, lane, position, token: Number((row as unknown as { token: number }).token) },
  }))
  const known = () => names.map((name) => holds.find(name)?.by ?? null)
  await settle(b, { action: 'ack', receipt: deliveries[0]?.receipt ?? '' })
  await settle(b, { action: 'nack', receipt: deliveries[1]?.receipt ?? '', delayMs: 0 })
  await forgetEnded(db, holds)
  expect(known()).toEqual(['key_a', 'key_a', 'key_a'])
  clockMs += 11_000
  await forgetEnded(db, holds)
  expect(known()).toEqual([null, null, 'key_a'])
  await db.close()
  await stop()
})
