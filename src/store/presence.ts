/**
 * Which gateways there are, and what each understands of what others store. What one of them would get wrong is not stored while it
 * runs, so that two versions may run side by side for the time of an upgrade.
 */
import type { BehindFact } from '../model/index.ts'
import { type Database, texts } from './client.ts'

/**
 * Understands runs, the leases of several consecutive messages of a key (`messages.follows`). A gateway that does not know them settles and expires one
 * message of a run as if it were alone, and the order of its key is lost. One that has not signed off may only be frozen, and is waited for.
 */
export const knowsRuns = { protocol: 1, silentFor: '1 hour' } as const

/**
 * Understands lease rows of several queues (`leases.queue_ids`). A gateway that does not know them takes one that has run out away, and its messages
 * come back only when the walk finds them, a minute later or two: nothing that is worth waiting for whoever may only be frozen.
 */
export const knowsLeasesOfSeveral = { protocol: 2, silentFor: '10 seconds' } as const

/** What this version understands: all of the above. */
export const protocol = 2

/**
 * Whether a gateway that does not know something is there, or was so short ago. It is looked at by the statement that would store what that one does not
 * know, so that no memory can be stale. Index `gateways_behind`.
 */
export const someoneBehind = (known: { protocol: number; silentFor: string }): string =>
  `exists (select 1 from postern.gateways g where g.protocol < ${known.protocol} and g.alive_until > now() - interval '${known.silentFor}')`

/**
 * This gateway is there, for so long by Postgres's clock; that of one which delivers webhooks is said by its heartbeat. Whoever was not
 * heard of for an hour is gone. Primary key of `gateways`.
 */
const registerText = `/* register gateway */
with gone as (delete from postern.gateways where alive_until < now() - interval '1 hour' and id <> $1)
insert into postern.gateways as g (id, alive_until, leaving, protocol) values ($1, now() + $2::int * interval '1 ms', true, ${protocol})
on conflict (id) do update set alive_until = greatest(g.alive_until, excluded.alive_until), protocol = excluded.protocol
where g.leaving or g.protocol <> excluded.protocol`

export async function registerGateway(db: Database, gateway: string, aliveMs: number): Promise<void> {
  await db.hot(registerText, [gateway, aliveMs])
}

/**
 * Gateways that were heard: one that has no row, though every gateway of this version makes its own before it says a word, is older and
 * delivers no webhooks. It is entered in its name. Several may do so at once, all in one order; rows of others are not touched. Primary key.
 */
const enterText = `/* enter heard gateways */
insert into postern.gateways as g (id, alive_until, leaving)
select x.id, now() + $2::int * interval '1 ms', true from unnest($1::text[]) x(id)
where not exists (select 1 from postern.gateways k where k.id = x.id and (k.protocol > 0 or not k.leaving)) order by x.id
on conflict (id) do update set alive_until = greatest(g.alive_until, excluded.alive_until) where g.protocol = 0 and g.leaving`

export async function enterHeard(db: Database, gateways: readonly string[], aliveMs: number): Promise<void> {
  if (gateways.length > 0) await db.hot(enterText, [texts([...gateways]), aliveMs])
}

/** They have said that they leave. One that makes its own row signs off itself. Primary key. */
export async function forgetHeard(db: Database, gateways: readonly string[]): Promise<void> {
  if (gateways.length === 0) return
  await db.hot(
    '/* forget heard gateways */ delete from postern.gateways where id = any ($1::text[]) and protocol = 0 and leaving',
    [texts([...gateways])],
  )
}

/** It is there no more. Its row stays for an hour, so that nobody who hears a late word of it takes it for an older one. */
export async function signOff(db: Database, gateway: string): Promise<void> {
  await db.hot('/* sign off */ update postern.gateways set leaving = true, alive_until = now() where id = $1', [
    gateway,
  ])
}

/** Gateways that do not know runs, those that were heard last first. Index `gateways_behind`. */
export async function gatewaysBehind(db: Database): Promise<BehindFact[]> {
  return await db.calm<BehindFact>(
    `/* gateways behind */ select id, alive_until as "aliveUntil", alive_until > now() as alive from postern.gateways
      where protocol < 1 order by alive_until desc limit 20`,
    [],
  )
}
