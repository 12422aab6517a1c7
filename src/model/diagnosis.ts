/** What may be wrong with a gateway and its database, from when on it counts as wrong, and what to do about it. */

/** `fatal`: nothing can be served, so the gateway is not ready. */
const table = {
  database_unreachable: {
    fatal: true,
    advice: 'Start Postgres, or correct DATABASE_URL; the gateway goes on by itself as soon as it answers.',
  },
  database_slow: {
    fatal: true,
    advice: 'See in pg_stat_activity what it waits for: locks, disk, or too many connections.',
  },
  database_read_only: {
    fatal: true,
    advice: 'Point DATABASE_URL at the primary, or at an address that follows it (target_session_attrs=primary).',
  },
  migrations_missing: {
    fatal: true,
    advice: 'Run "postern migrate" with a role that owns the schema, or restart a gateway.',
  },
  statements_blocked: {
    fatal: false,
    advice:
      'Wait until it is done, or end it (select pg_terminate_backend(PID), or ROLLBACK PREPARED); until then whatever needs the same rows is answered with 503.',
  },
  postgres_too_old: { fatal: false, advice: 'Upgrade to Postgres 14 or newer.' },
  not_durable: {
    fatal: false,
    advice: 'Turn the setting on: without it a crash of Postgres loses messages that were acknowledged.',
  },
  vacuum_held_by_transaction: {
    fatal: false,
    advice:
      'End the session (select pg_terminate_backend(PID)), and set idle_in_transaction_session_timeout or transaction_timeout for its role.',
  },
  vacuum_held_by_slot: {
    fatal: false,
    advice: 'Bring its consumer back, or drop the slot: select pg_drop_replication_slot(NAME).',
  },
  vacuum_held_by_prepared_transaction: {
    fatal: false,
    advice: 'Decide it: COMMIT PREPARED or ROLLBACK PREPARED with its name, as its owner.',
  },
  vacuum_held_by_replica: {
    fatal: false,
    advice: 'End the long query on that replica, or turn hot_standby_feedback off there.',
  },
  wal_kept_by_slot: {
    fatal: false,
    advice: 'Bring its consumer back or drop the slot before the disk is full; max_slot_wal_keep_size bounds it.',
  },
  autovacuum_off: { fatal: false, advice: 'Turn autovacuum and track_counts on: messages are deleted all the time.' },
  bloat: {
    fatal: false,
    advice:
      'End whatever holds back vacuum, if anything is named here; then VACUUM the table. VACUUM FULL or pg_repack gives the space back to the disk.',
  },
  connections_exhausted: {
    fatal: false,
    advice: 'Raise max_connections, lower DATABASE_POOL, or put PgBouncer in between.',
  },
  pool_exhausted: { fatal: false, advice: 'Raise DATABASE_POOL, or start more gateways.' },
  listen_down: {
    fatal: false,
    advice:
      'Other gateways are heard only by looking every second: check that DATABASE_LISTEN_URL is a direct connection, not one through PgBouncer in transaction mode.',
  },
  listen_off: {
    fatal: false,
    advice:
      'Set DATABASE_LISTEN_URL to a direct connection; until then messages sent through other gateways are found within a second.',
  },
  clock_skew: {
    fatal: false,
    advice:
      'Synchronize the clocks (NTP): deliveries follow Postgres, but receivers refuse webhooks with a wrong timestamp.',
  },
  upkeep_missing: {
    fatal: false,
    advice: 'Run at least one gateway whose ROLES contain upkeep, and look into its log for what fails.',
  },
  subscriptions_unserved: {
    fatal: false,
    advice: 'Run at least one gateway whose ROLES contain push, and look into its log for what fails.',
  },
  gateways_behind: {
    fatal: false,
    advice:
      'Finish the upgrade. One that was killed is waited for for an hour, in case it is only frozen: when it has certainly gone, delete its row from postern.gateways.',
  },
  privileges_missing: {
    fatal: false,
    advice: "Grant it (GRANT pg_read_all_stats TO ROLE), or look at other roles' sessions yourself.",
  },
  diagnosis_incomplete: {
    fatal: false,
    advice: 'Ask again; if it stays, see in pg_stat_activity what the statement waits for.',
  },
} as const satisfies Record<string, { fatal: boolean; advice: string }>

export type ProblemCode = keyof typeof table
export const problemCodes = Object.keys(table) as [ProblemCode, ...ProblemCode[]]

/** `since`: from when on, as far as is known. */
export type Problem = { code: ProblemCode; detail: string; since: Date | null; advice: string }

export const problem = (code: ProblemCode, detail: string, since: Date | null = null): Problem => ({
  code,
  detail,
  since,
  advice: table[code].advice,
})

/** The same with what the advice is about in the place of its word, so that it can be pasted. */
const about = (found: Problem, word: 'PID' | 'NAME', value: string): Problem => ({
  ...found,
  advice: found.advice.replace(`(${word})`, () => `(${value})`),
})

const quoted = (name: string): string => `'${name.replaceAll("'", "''")}'`

/** Whether the gateway cannot serve because of it. */
export const isFatal = ({ code }: Pick<Problem, 'code'>): boolean => table[code].fatal

export const diagnosisLimits = {
  oldestVersion: 140_000,
  /** Statements of Postern wait for each other for milliseconds. */
  blockedMs: 2_000,
  /** A transaction this old is named; a slot or a replica, whose age is known in transactions only, from so many on. */
  transactionMs: 60_000,
  transactions: 1_000_000,
  walBytes: 1024 ** 3,
  deadRows: 200_000,
  /** Dead rows for each live one. */
  deadRatio: 2,
  connections: 0.9,
  poolFullMs: 1_000,
  skewMs: 1_000,
  /** What is due is dealt with within a second. */
  lateMs: 15_000,
} as const

export type ServerFacts = {
  version: number
  /** Settings that are off and without which nothing is safe. */
  unsafe: readonly string[]
  /** `autovacuum` or `track_counts`, when off. */
  unvacuumed: readonly string[]
  connections: number
  maxConnections: number
  role: string
  seesSessions: boolean
}

export type SessionFact = {
  pid: number
  user: string | null
  application: string | null
  state: string | null
  transactionAt: Date
  queryAt: Date | null
  /** Transactions begun since its snapshot. */
  age: number | null
}

/** Whoever holds locks for which statements of this role wait, and waits for nobody itself. `session` null: a prepared transaction. */
export type BlockerFact = { session: Omit<SessionFact, 'age'> | null; waiting: number; waitingSince: Date }

export type SlotFact = { name: string; active: boolean; age: number | null; walBytes: number | null }
export type PreparedFact = { name: string; owner: string; preparedAt: Date; age: number }
export type ReplicaFact = { pid: number; application: string | null; since: Date | null; age: number }
export type TableFact = { name: string; live: number; dead: number; bytes: number; vacuumedAt: Date | null }
/** Since when the oldest of each is overdue. */
export type LateFacts = { due: Date | null; leases: Date | null; schedules: Date | null }
/** A gateway that does not know what a newer one would store. */
export type BehindFact = { id: string; aliveUntil: Date; alive: boolean }
export type UnservedFacts = { count: number; first: string | null; since: Date | null }

export function judgeServer(facts: ServerFacts): Problem[] {
  const { version, unsafe, unvacuumed, connections, maxConnections, role, seesSessions } = facts
  const found: Problem[] = []
  if (version < diagnosisLimits.oldestVersion)
    found.push(problem('postgres_too_old', `Postgres ${Math.floor(version / 10_000)} is older than 14.`))
  for (const name of unsafe) found.push(problem('not_durable', `${name} is off.`))
  for (const name of unvacuumed) found.push(problem('autovacuum_off', `${name} is off.`))
  if (connections > maxConnections * diagnosisLimits.connections)
    found.push(
      problem('connections_exhausted', `${connections} of ${maxConnections} connections to Postgres are taken.`),
    )
  if (!seesSessions)
    found.push(
      problem(
        'privileges_missing',
        `The role ${role} has no pg_read_all_stats: a transaction of another role that holds back vacuum is not seen.`,
      ),
    )
  return found
}

const sessionWords = ({ pid, user, application, state }: Omit<SessionFact, 'age'>): string => {
  const who = [user && `role ${user}`, application && `application ${application}`, state].filter(Boolean).join(', ')
  return `The session ${pid} (${who})`
}

const sinceWords = ({ transactionAt, queryAt }: Omit<SessionFact, 'age'>): string =>
  `a transaction open since ${transactionAt.toISOString()}${queryAt ? `, last query begun ${queryAt.toISOString()}` : ''}`

export const judgeBlocked = (blockers: readonly BlockerFact[]): Problem[] =>
  blockers.map(({ session, waiting, waitingSince }) => {
    const holder = session
      ? `${sessionWords(session)} holds locks, with ${sinceWords(session)}`
      : 'A prepared transaction (select * from pg_prepared_xacts) holds locks'
    const others = waiting === 1 ? '1 statement of Postern waits' : `${waiting} statements of Postern wait`
    const detail = `${holder}: ${others} for it, since ${waitingSince.toISOString()}.`
    const found = problem('statements_blocked', detail, waitingSince)
    return session ? about(found, 'PID', `${session.pid}`) : found
  })

const xids = (age: number | null): string => (age === null ? '' : `, ${age} transactions back`)

export const judgeSessions = (sessions: readonly SessionFact[], now: Date): Problem[] =>
  sessions
    .filter(({ transactionAt }) => now.getTime() - transactionAt.getTime() > diagnosisLimits.transactionMs)
    .map((session) => {
      const detail = `${sessionWords(session)} has had ${sinceWords(session)}${xids(session.age)}: nothing deleted since is cleaned up.`
      return about(problem('vacuum_held_by_transaction', detail, session.transactionAt), 'PID', `${session.pid}`)
    })

export function judgeSlots(slots: readonly SlotFact[]): Problem[] {
  return slots.flatMap(({ name, active, age, walBytes }) => {
    const found: Problem[] = []
    const standing = active ? 'active' : 'nobody reads from it'
    if (age !== null && (!active || age > diagnosisLimits.transactions))
      found.push(
        about(
          problem('vacuum_held_by_slot', `The replication slot ${name} (${standing}) holds back vacuum${xids(age)}.`),
          'NAME',
          quoted(name),
        ),
      )
    if (!active && walBytes !== null && walBytes > diagnosisLimits.walBytes)
      found.push(
        problem('wal_kept_by_slot', `The replication slot ${name} (${standing}) keeps ${gigabytes(walBytes)} of WAL.`),
      )
    return found
  })
}

const gigabytes = (bytes: number): string => `${Math.round((bytes / 1024 ** 3) * 10) / 10} GB`

export const judgePrepared = (prepared: readonly PreparedFact[], now: Date): Problem[] =>
  prepared
    .filter(({ preparedAt }) => now.getTime() - preparedAt.getTime() > diagnosisLimits.transactionMs)
    .map(({ name, owner, preparedAt, age }) =>
      problem(
        'vacuum_held_by_prepared_transaction',
        `The prepared transaction ${name} of ${owner} waits for its end since ${preparedAt.toISOString()}${xids(age)}.`,
        preparedAt,
      ),
    )

export const judgeReplicas = (replicas: readonly ReplicaFact[]): Problem[] =>
  replicas
    .filter(({ age }) => age > diagnosisLimits.transactions)
    .map(({ pid, application, since, age }) =>
      problem(
        'vacuum_held_by_replica',
        `The replica ${application ?? ''} (pid ${pid}) holds back vacuum for a query of its own${xids(age)}.`,
        since,
      ),
    )

export const judgeTables = (tables: readonly TableFact[]): Problem[] =>
  tables
    .filter(({ live, dead }) => dead > diagnosisLimits.deadRows && dead > live * diagnosisLimits.deadRatio)
    .map(({ name, live, dead, bytes, vacuumedAt }) =>
      problem(
        'bloat',
        `${name} has ${dead} dead rows and ${live} live ones in ${gigabytes(bytes)}, last vacuumed ${vacuumedAt?.toISOString() ?? 'never'}.`,
        vacuumedAt,
      ),
    )

const lateWords = {
  due: 'Messages that are due still lie with the delayed ones',
  leases: 'Leases that have run out were not taken back',
  schedules: 'Schedules have not fired',
} as const

export const judgeLate = (late: LateFacts, now: Date): Problem[] =>
  (Object.keys(lateWords) as (keyof LateFacts)[]).flatMap((kind) => {
    const since = late[kind]
    if (!since || now.getTime() - since.getTime() <= diagnosisLimits.lateMs) return []
    return [problem('upkeep_missing', `${lateWords[kind]} since ${since.toISOString()}.`, since)]
  })

export const judgeUnserved = ({ count, first, since }: UnservedFacts): Problem[] =>
  count === 0
    ? []
    : [problem('subscriptions_unserved', `No gateway delivers for ${count} enabled webhooks, such as ${first}.`, since)]

export const judgeBehind = (behind: readonly BehindFact[]): Problem[] =>
  behind.map(({ id, aliveUntil, alive }) =>
    problem(
      'gateways_behind',
      `The gateway ${id} ${alive ? 'is' : `(last alive ${aliveUntil.toISOString()}, not signed off) was`} of a version that does not know leases of several messages of a key: keyed queues hand out one message of a key at a time, as that version does.`,
    ),
  )

/** `roundTripMs`: how long asking took, within which the answer may have been read at any moment. */
export function judgeClock(gatewayMs: number, databaseMs: number, roundTripMs: number): Problem[] {
  const offMs = gatewayMs - databaseMs
  if (Math.abs(offMs) - roundTripMs / 2 <= diagnosisLimits.skewMs) return []
  const words = offMs > 0 ? 'ahead of' : 'behind'
  return [problem('clock_skew', `This gateway's clock is ${Math.round(Math.abs(offMs))} ms ${words} that of Postgres.`)]
}

export type PoolLoad = { name: string; size: number; pending: number; fullMs: number }

export const judgePools = (pools: readonly PoolLoad[]): Problem[] =>
  pools
    .filter(({ fullMs }) => fullMs > diagnosisLimits.poolFullMs)
    .map(({ name, size, pending, fullMs }) =>
      problem(
        'pool_exhausted',
        `All ${size} connections for ${name} are busy for ${Math.round(fullMs)} ms, and ${pending - size} statements wait for one.`,
      ),
    )
