/** What a receive with an Idempotency-Key has leased, for its retries. */
import type { Database } from './client.ts'
import type { LeasedRow } from './lease.ts'
import { bodyOf } from './log.ts'
import { inRuns } from './runs.ts'

/** What is left of a request's leases; one row without a lane when it is known and nothing is. Primary keys. */
const recallText = `/* recall */
select m.* from postern.receive_requests r cross join lateral unnest(r.lanes, r.positions) p(lane, position) cross join lateral (
  select r.token, m.queue_id, m.lane, m.position, m.id, m.attempts, m.content_type, m.key, m.headers, ${bodyOf('m')} as body,
    date_part('epoch', m.enqueued_at) * 1000 as enqueued_ms, date_part('epoch', m.leased_until) * 1000 as leased_until_ms,
    false as expired, false as exhausted, false as cut, null::bigint as turn, m.chain, m.follows
  from postern.messages m where m.queue_id = r.queue_id and m.lane = p.lane and m.position = p.position
    and m.lease_token = r.token and m.leased_until > now() limit 1) m
where r.queue_id = $1::int and r.hash = $2::bytea
union all
select r.token, r.queue_id${', null'.repeat(16)}
from postern.receive_requests r where r.queue_id = $1::int and r.hash = $2::bytea and r.expires_at > now()`

/** null: no such request is known, or its time is over. Sorted as leases are. */
export async function recall(
  db: Database,
  queueId: number,
  hash: Buffer,
): Promise<{ token: number; rows: LeasedRow[] } | null> {
  const answered = await db.hot<LeasedRow & { token: number }>(recallText, [queueId, hash])
  const [first] = answered
  if (!first) return null
  const rows = answered.filter((row) => row.lane !== null)
  return { token: first.token, rows: inRuns(rows.sort((a, b) => a.lane - b.lane || a.position - b.position)) }
}
