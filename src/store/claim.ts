/**
 * Receives that may be retried: whoever leases for one claims its key in the same statement, so that of two with the same key one leases
 * and the other finds what that one got.
 */

/** `token`: under which the same caller has claimed it before, in vain; 0: it has not. */
export type LeaseClaim = { hash: Buffer; token: number }

/** Whether a message of the request `r` is still leased for it. Primary key of `messages`. */
export const liveLease = (r: string): string => `exists (
    select 1 from unnest(${r}.lanes, ${r}.positions) p(lane, position) cross join lateral (
      select 1 from postern.messages m where m.queue_id = ${r}.queue_id and m.lane = p.lane and m.position = p.position
        and m.lease_token = ${r}.token and m.leased_until > now() limit 1) x)`

/**
 * Part of a lease statement: `claim` has a row when the key is this statement's, `kept` then the rows of `t`, and else none. `places` is where
 * everything lies that is leased. Waits for another
 * that claims the same key at this moment. Primary key of `receive_requests`.
 */
export const claiming = (hash: string, before: string, places: string): string => `claim as (
  insert into postern.receive_requests as r (queue_id, hash, token, lanes, positions, expires_at)
  select queue_id, ${hash}, $7::bigint, array_agg(lane), array_agg(position), now() + $8::int * interval '1 ms' from ${places} group by queue_id
  on conflict (queue_id, hash) do update
    set token = excluded.token, lanes = excluded.lanes, positions = excluded.positions, expires_at = excluded.expires_at
    where r.token = ${before} or r.expires_at <= now() and not ${liveLease('r')}
  returning 1),
kept as (select * from t where exists (select 1 from claim)),
`
