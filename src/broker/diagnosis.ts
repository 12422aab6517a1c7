/** What is wrong: with the database, as far as it says; and with this gateway's links to it. */
import { sleep, wallMs } from '../base/index.ts'
import {
  isFatal,
  judgeBehind,
  judgeBlocked,
  judgeClock,
  judgeLate,
  judgePools,
  judgePrepared,
  judgeReplicas,
  judgeServer,
  judgeSessions,
  judgeSlots,
  judgeTables,
  judgeUnserved,
  type Problem,
  problem,
} from '../model/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'

/** A probe gives up after a few seconds itself; it should hear why. */
const readyDeadlineMs = 4_000
const deepDeadlineMs = 10_000

export type Diagnosis = {
  /** What keeps the gateway from serving; empty when it is ready. */
  ready(): Promise<Problem[]>
  /** All that is wrong, the fatal ones first. */
  all(): Promise<Problem[]>
}

type Options = {
  db: Database
  /** null: it does not listen at all. */
  listening: (() => boolean) | null
}

export function createDiagnosis({ db, listening }: Options): Diagnosis {
  // As of the start: the files of another release that are put in their place meanwhile are not what runs here.
  const known = store.knownMigrations()
  known.catch(() => {})
  const ready = () => databaseProblems(db, false, known)
  return {
    ready,
    async all() {
      const found = await databaseProblems(db, true, known)
      if (listening === null)
        found.push(problem('listen_off', 'This gateway has no connection of its own on which it could listen.'))
      // Without a database that is no news.
      else if (!listening() && !found.some(isFatal))
        found.push(problem('listen_down', 'What other gateways announce does not arrive here.'))
      return [...found, ...judgePools(db.load())]
    },
  }
}

/** Whatever goes wrong while asking is itself what is wrong. `deep`: also what only slows down or will go wrong. */
export async function databaseProblems(
  db: Database,
  deep: boolean,
  known: Promise<readonly string[]> = store.knownMigrations(),
): Promise<Problem[]> {
  const found = await within(readyDeadlineMs, standingProblems(db, known), () => [
    problem('database_slow', `Postgres did not answer within ${readyDeadlineMs / 1000} s.`),
  ])
  if (!deep || found.some(isFatal)) return found
  const deepOnes: Problem[] = []
  // What was found until then is as true without the rest.
  const late = () => [...deepOnes, unfinished('the rest')]
  return [...found, ...(await within(deepDeadlineMs, deepProblems(db, deepOnes), late))]
}

const unfinished = (what: string): Problem =>
  problem('diagnosis_incomplete', `Could not look at ${what} in time, or was not allowed to.`)

async function within(ms: number, work: Promise<Problem[]>, late: () => Problem[]): Promise<Problem[]> {
  const over = new AbortController()
  try {
    return await Promise.race([work, sleep(ms, over.signal).then(late)])
  } finally {
    over.abort()
  }
}

async function standingProblems(db: Database, known: Promise<readonly string[]>): Promise<Problem[]> {
  try {
    const { missing, readOnly } = await store.standing(db, await known)
    const found: Problem[] = []
    if (readOnly) found.push(problem('database_read_only', 'The database is a read-only replica.'))
    if (missing.length > 0)
      found.push(
        problem(
          'migrations_missing',
          `The database lacks ${missing.length === 1 ? '1 migration' : `${missing.length} migrations`}: ${missing.join(', ')}.`,
        ),
      )
    return found
  } catch {
    return [problem('database_unreachable', 'Postgres does not answer.')]
  }
}

/** One after the other, on one connection; what cannot be looked at does not hide the rest. */
async function deepProblems(db: Database, found: Problem[]): Promise<Problem[]> {
  const looks: [string, () => Promise<Problem[]>][] = [
    ['locks', async () => judgeBlocked(await store.diagnoseBlocked(db))],
    ['the server', () => serverProblems(db)],
    ['sessions', async () => judgeSessions(await store.diagnoseSessions(db), await databaseNow(db))],
    ['prepared transactions', async () => judgePrepared(await store.diagnosePrepared(db), await databaseNow(db))],
    ['replication slots', async () => judgeSlots(await store.diagnoseSlots(db))],
    ['replicas', async () => judgeReplicas(await store.diagnoseReplicas(db))],
    ['tables', async () => judgeTables(await store.diagnoseTables(db))],
    ['what is due', async () => judgeLate(await store.diagnoseLate(db), await databaseNow(db))],
    ['gateways', async () => judgeBehind(await store.gatewaysBehind(db))],
    ['subscriptions', async () => judgeUnserved(await store.diagnoseUnserved(db))],
  ]
  for (const [what, look] of looks) found.push(...(await look().catch(() => [unfinished(what)])))
  return found
}

const databaseNow = async (db: Database): Promise<Date> => new Date(await store.databaseNowMs(db))

async function serverProblems(db: Database): Promise<Problem[]> {
  const facts = await store.diagnoseServer(db)
  const beforeMs = wallMs()
  const nowMs = await store.databaseNowMs(db)
  const roundTripMs = wallMs() - beforeMs
  return [...judgeServer(facts), ...judgeClock(beforeMs + roundTripMs / 2, nowMs, roundTripMs)]
}
