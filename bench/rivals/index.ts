/** Who is measured beside whom. */
import type { Contender } from './contender.ts'
import { graphile } from './graphile.ts'
import { pgBoss } from './pg_boss.ts'
import { postern, posternHttp } from './postern.ts'
import { rabbits } from './rabbit.ts'

export type { Contender, Lazy, Line, Standing } from './contender.ts'
export { createGate, inPieces, lazily } from './contender.ts'
export { turns } from './postern.ts'
export { findRabbit } from './rabbit_server.ts'
export { graphile, pgBoss, postern, posternHttp }

/** Those with tables of their own on the Postgres of the place. */
export const onPostgres: readonly Contender[] = [postern, pgBoss, graphile]
/** Without a gateway: Postern in process would have it as a neighbour, whom it tells what it stores. */
export const everyone = (): Contender[] => [postern, pgBoss, graphile, ...rabbits()]
