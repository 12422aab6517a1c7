/** Leasing: one statement for all receivers of all queues that gathered while the last one ran. */
import { claiming, type LeaseClaim } from './claim.ts'
import { type Database, numbers } from './client.ts'
import { fence } from './fence.ts'
import { leaseRows } from './lease_rows.ts'
import { bodyOf, bytesOf } from './log.ts'
import { following, inRuns } from './runs.ts'

/** Up to `limit` messages of one queue; `lanes` in the order of handing out, each with the position after which to look. */
export type LeaseRequest = {
  queueId: number
  limit: number
  lanes: readonly { lane: number; mark: number }[]
  /** The subscription for which the messages are leased; 0: for anybody. */
  fence: number
  /** Of a keyed queue: how whole runs of one key are to be shared out; null: one of each key. */
  runs: Runs | null
}

/** For so many receivers, each of up to `max` messages and no more than `perKey` of one key. `limit` is what they take together. */
export type Runs = { receivers: number; max: number; perKey: number }

export type LeasedRow = {
  queue_id: number
  lane: number
  position: number
  id: number
  attempts: number
  enqueued_ms: number
  leased_until_ms: number
  /** Its ttl has run out: not to be handed out. */
  expired: boolean
  /** It has had all its attempts (max_attempts was lowered): not to be handed out. */
  exhausted: boolean
  content_type: string
  key: string | null
  /** On a fair queue: the place in the order of its key, whose turn is over with this lease. On a keyed one a key is done with the ack only. */
  turn: number | null
  /** On a keyed or fair queue: the place in the order of its key. */
  chain: number | null
  /** On a keyed queue: the place of the first of its run, when that is another one. A run is not to be parted. */
  follows: number | null
  headers: Record<string, string> | null
  body: Buffer | null
  /** The same on every row: the bodies of the statement came to `maxBytes`, and something ready was left. */
  cut: boolean
}

/** What differs between lease statements: `claim` is a receive that may be retried, `runs` are leases of several messages of one key. */
type Variant = { name: string; isOpen: string; claims: boolean; runs: boolean }

/**
 * Never waits: rows that another statement holds are skipped. The primary key serves every lane in order, and a lane's
 * rows are locked only as the limit draws them. When the bodies of the whole statement exceed `maxBytes`, the rest stays
 * ready (and is for a moment skipped by others: announce the queues that got less than they asked for).
 * A paused queue gives nothing; one with max_leased at most its room; a subscription that this gateway does not own, or that is
 * disabled, nothing. Rows come in no order.
 */
function leasing({ name, isOpen, claims, runs }: Variant): string {
  const first = runs ? 15 : 12
  const places = runs
    ? '(select queue_id, lane, position from t union all select queue_id, lane, fresh from behind) z'
    : 't'
  const kept = claims ? 'kept' : 't'
  const taken = runs
    ? `(select queue_id, lane, position from ${kept} union all select queue_id, lane, fresh from along) z`
    : kept
  const claim = claims ? claiming(`$${first}::bytea`, `$${first + 1}::bigint`, places) : ''
  const several = 'cardinality($1::int[]) > 1 and not exists (select 1 from s where bounded)'
  const asked = runs
    ? `$10::int[], $12::int[], $13::int[], $14::int[]) with ordinality r(queue_id, n, lanes_from, lanes_to, fence, receivers, most, per_key, slot)`
    : '$10::int[]) with ordinality r(queue_id, n, lanes_from, lanes_to, fence, slot)'
  const [shared, lead] = runs
    ? [
        ', s.receivers, s.most, s.per_key, s.room',
        ', m.key, m.chain, m.chain is not null and m.attempts = 0 and m.expires_at > now() and s.keyed and s.max_attempts > 1 as leads',
      ]
    : ['', '']
  return `/* ${name} */
with s as materialized (
  select r.*, k.max_attempts, k."order" = 'keyed' as keyed, k.max_leased is not null as bounded, case when k.max_leased is null then r.n else least(r.n, postern.lease_room(k.id)) end as room
  from unnest($1::int[], $2::int[], $3::int[], $4::int[], ${asked}
  join postern.queues k on k.id = r.queue_id and not k.paused and ${isOpen}),
c as materialized (
  select x.*, s.max_attempts, s.keyed${shared} from s cross join lateral (
    select d.* from generate_series(s.lanes_from, s.lanes_to) g(at)
    cross join lateral (select ($5::smallint[])[g.at] as lane, ($6::bigint[])[g.at] as mark) l
    cross join lateral (
      select m.ctid as tid, m.queue_id, m.lane, m.position, ${bytesOf('m')} as bytes, m.attempts >= s.max_attempts as exhausted${lead}
      from postern.messages m
      where m.queue_id = s.queue_id and m.lane = l.lane and m.position > l.mark and m.lease_token = 0
      order by m.queue_id, m.lane, m.position limit s.room for update skip locked) d
    limit s.room) x),
t as materialized (
  select * from (select c.*, row_number() over () as nth, sum(coalesce(bytes, 0)) over (rows unbounded preceding) as running from c) y
  where nth = 1 or running <= $9::bigint),
${runs ? following.found : ''}${claim}${runs ? following.taken(claims) : ''}${leaseRows({ from: taken, several, expiresAt: "now() + $8::int * interval '1 ms'", token: '$7::bigint' })},
u as (
update postern.messages m set lease_token = $7::bigint, leased_until = now() + $8::int * interval '1 ms', attempts = m.attempts + 1
from ${kept} t where m.ctid = t.tid
returning m.queue_id, m.lane, m.position, m.id, m.attempts, m.content_type, m.key, m.headers, ${bodyOf('m')} as body,
  date_part('epoch', m.enqueued_at) * 1000 as enqueued_ms, date_part('epoch', m.leased_until) * 1000 as leased_until_ms,
  m.expires_at <= now() as expired, m.attempts > t.max_attempts as exhausted,
  (select count(*) from c) > (select count(*) from t) as cut,
  case when m.chain is not null and not t.keyed then m.chain end as turn,
  m.chain, null::bigint as follows)
select * from u${runs ? following.rows : ''}`
}

const rowWithoutLane = `r.queue_id${', null'.repeat(16)}`
const anybody = 'r.fence = 0 and $11::text is not null'

/** A queue whose fence is closed answers with a row without a lane: that nothing came says nothing about what is there. */
const closedFence = `
union all
select ${rowWithoutLane} from unnest($1::int[], $10::int[]) r(queue_id, fence)
where not ${fence('r.fence', '$11::text')}`

/** A claim that somebody else has is answered with a row without a lane: nothing was leased, whatever is there. */
const lostClaim = `
union all
select ${rowWithoutLane} from unnest($1::int[]) r(queue_id)
where exists (select 1 from t) and not exists (select 1 from claim)`

const textsOf = (runs: boolean) => ({
  open: leasing({ name: 'lease', isOpen: anybody, claims: false, runs }),
  fenced:
    leasing({ name: 'lease for subscriptions', isOpen: fence('r.fence', '$11::text'), claims: false, runs }) +
    closedFence,
  claimed: leasing({ name: 'lease for a request', isOpen: anybody, claims: true, runs }) + lostClaim,
})
const leaseTexts = { single: textsOf(false), runs: textsOf(true) }

/**
 * Leases messages under `token`, which must be new, for `leaseMs`. Rows that came out are leased, and are so even when
 * `expired` or `exhausted`: bury those. Sorted by queue (as asked), lane and position, each run behind its first. `closed`: queues of requests whose fence
 * is closed, or whose `claim` (of the only request) somebody else has.
 */
export async function lease(
  db: Database,
  requests: readonly LeaseRequest[],
  token: number,
  leaseMs: number,
  maxBytes: number,
  gateway: string,
  claim: LeaseClaim | null = null,
): Promise<{ rows: LeasedRow[]; closed: Set<number> }> {
  const lanes = requests.flatMap((request) => request.lanes)
  let next = 1
  const from = requests.map((request) => {
    const first = next
    next += request.lanes.length
    return first
  })
  const kind = claim ? 'claimed' : requests.some((request) => request.fence !== 0) ? 'fenced' : 'open'
  const inRun = requests.some((request) => request.runs !== null)
  const runs = requests.map((request) => request.runs ?? oneOfEachKey)
  const answered = await db.hot<LeasedRow>(leaseTexts[inRun ? 'runs' : 'single'][kind], [
    numbers(requests.map((request) => request.queueId)),
    numbers(requests.map((request) => request.limit)),
    numbers(from),
    numbers(requests.map((request, at) => (from[at] ?? 1) + request.lanes.length - 1)),
    numbers(lanes.map((lane) => lane.lane)),
    numbers(lanes.map((lane) => lane.mark)),
    token,
    leaseMs,
    maxBytes,
    numbers(requests.map((request) => request.fence)),
    gateway,
    ...(inRun
      ? [
          numbers(runs.map((each) => each.receivers)),
          numbers(runs.map((each) => each.max)),
          numbers(runs.map((each) => each.perKey)),
        ]
      : []),
    ...(claim ? [claim.hash, claim.token] : []),
  ])
  const rows = answered.filter((row) => row.lane !== null)
  const closed = new Set(answered.filter((row) => row.lane === null).map((row) => row.queue_id))
  const turn = new Map(requests.map((request, at) => [request.queueId, at]))
  rows.sort(
    (a, b) => (turn.get(a.queue_id) ?? 0) - (turn.get(b.queue_id) ?? 0) || a.lane - b.lane || a.position - b.position,
  )
  return { rows: inRun ? inRuns(rows) : rows, closed }
}

const oneOfEachKey: Runs = { receivers: 1, max: 1, perKey: 1 }
