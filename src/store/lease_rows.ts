/**
 * Lease rows: which messages were leased until when, for the upkeep to find what has run out. A statement that leases from several queues
 * leaves one row for all of them, of queue 0, because a row for each would cost more than the lease. A queue with max_leased has rows of its
 * own, by which its leases are counted; what others leased before it had the bound is copied into such by the trigger `queues_bound`.
 */
import { knowsLeasesOfSeveral, someoneBehind } from './presence.ts'

type LeaseRows = {
  /** A name of something with queue_id, lane and position, and whatever else \`expiresAt\` and \`token\` mean. */
  from: string
  /** Whether the messages of all queues may share a row. */
  several: string
  expiresAt: string
  token: string
}

/** CTEs that store lease rows, from SQL expressions. Nothing is shared while a gateway runs that would not find it. Index `gateways_behind`. */
export const leaseRows = ({ from, several, expiresAt, token }: LeaseRows): string => `lease_form as materialized (
  select ${several} and not ${someoneBehind(knowsLeasesOfSeveral)} as several),
lease_of_several as (
  insert into postern.leases (expires_at, token, queue_id, lane, positions, queue_ids, lanes)
  select ${expiresAt}, ${token}, 0, 0, array_agg(position), array_agg(queue_id), array_agg(lane)
  from ${from} where (select several from lease_form) group by 1, 2
  ${added}),
leases_of_each as (
  insert into postern.leases (expires_at, token, queue_id, lane, positions)
  select ${expiresAt}, ${token}, queue_id, lane, array_agg(position)
  from ${from} where not (select several from lease_form) group by 1, 2, queue_id, lane
  ${added})`

/** Only what is extended twice to the same end meets a row that is there. */
const added = `on conflict (expires_at, token, queue_id, lane) do update set positions = postern.leases.positions || excluded.positions,
    queue_ids = postern.leases.queue_ids || excluded.queue_ids, lanes = postern.leases.lanes || excluded.lanes`

/** The places of the messages in a lease row, to join with it: queue_id, lane, position. */
export const placesIn = (row: string): string => `lateral (
    select coalesce(${row}.queue_ids[x.ord], ${row}.queue_id) as queue_id, coalesce(${row}.lanes[x.ord], ${row}.lane) as lane, x.position
    from unnest(${row}.positions) with ordinality x(position, ord))`
