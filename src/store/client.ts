/**
 * Connections to Postgres and the one way to run a statement: bound, with a deadline, and with every way in which a
 * database can be away turned into `unavailable`. Two pools, because the queue's statements want a planner that never
 * believes statistics (the tables are empty and huge in turns), and everything else wants the ordinary one.
 */
import postgres from 'postgres'
import { after, monotonicMs, type Timer } from '../base/index.ts'
import { BrokerError, type Observe, type PoolLoad } from '../model/index.ts'
import { createHearing, type Hearing } from './hearing.ts'

export type Sql = postgres.Sql<{ int8: number }>

export type ConnectOptions = {
  databaseUrl: string
  /** Connections in all, at least 2; one more listens. */
  pool: number
  /** false behind PgBouncer in transaction mode: no prepared statements and no session settings. */
  prepare: boolean
  observe?: Pick<Observe, 'statement'>
}

export type Database = {
  /** For the queue's own statements: index scans and nested loops only, plans made once. */
  hot<Row>(text: string, parameters: readonly Parameter[]): Promise<Row[]>
  /** For reading, counting and administration. */
  calm<Row>(text: string, parameters: readonly Parameter[]): Promise<Row[]>
  /** Several statements that commit together; administration only. */
  transaction<T>(
    run: (query: <Row>(text: string, parameters: readonly Parameter[]) => Promise<Row[]>) => Promise<T>,
  ): Promise<T>
  /**
   * For functions that take a database: all that they do with `inside` commits together. Within it, a `together` that throws undoes
   * only what it did itself. Nobody waits long for a gateway that has gone meanwhile, nor it for a lock.
   */
  together<T>(run: (inside: Database) => Promise<T>): Promise<T>
  /** How busy the pools are. `fullMs`: for how long somebody has been waiting for a connection without a break. */
  load(): PoolLoad[]
  close(): Promise<void>
}

export type Parameter = string | number | boolean | null | Buffer | Date

/** Measured: 4.5x at small batches against the planner's own choice. */
const hotSettings = {
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  // Compiling a statement takes longer than running it, whatever its cost is estimated at.
  jit: 'off',
}

const hotDeadlineMs = 10_000
const calmDeadlineMs = 30_000
const probeDeadlineMs = 3_000
const mostNames = 500
/** Statements of one pool that run or wait for a connection. Those with bodies are far fewer: see the broker's batches. */
const mostPending = 1_000
const togetherText = `/* bound the transaction */ select set_config('lock_timeout', '2s', true), set_config('idle_in_transaction_session_timeout', '5s', true)`

export function connect(options: ConnectOptions): Database {
  const calmSize = Math.max(1, Math.min(4, Math.floor(options.pool / 3)))
  const hearing = createHearing({
    async probe() {
      const sql = open(options, 1, {})
      try {
        await within(sql.unsafe('/* probe */ select 1', [], { prepare: false }), probeDeadlineMs)
      } catch (error) {
        // That it has no room for one more connection is an answer too.
        if (!isServers(error)) throw error
      } finally {
        void sql.end({ timeout: 0 })
      }
    },
    fellSilent() {
      hot.renew()
      calm.renew()
    },
  })
  const hotSize = Math.max(1, options.pool - calmSize)
  const hot = pool(() => open(options, hotSize, { ...hotSettings, statement_timeout: hotDeadlineMs }), {
    size: hotSize,
    deadlineMs: hotDeadlineMs,
    hearing,
  })
  const calmLimits = { statement_timeout: calmDeadlineMs, idle_in_transaction_session_timeout: 10_000 }
  const calm = pool(() => open(options, calmSize, calmLimits), { size: calmSize, deadlineMs: calmDeadlineMs, hearing })

  const timed = timing(options.observe)
  const runner =
    ({ run }: Pool) =>
    <Row>(text: string, parameters: readonly Parameter[]): Promise<Row[]> =>
      timed(
        text,
        run((sql) => sql.unsafe(text, [...parameters], { prepare: options.prepare }) as unknown as Promise<Row[]>),
      )

  const queryOf =
    (tx: postgres.TransactionSql<{ int8: number }>) =>
    <Row>(text: string, parameters: readonly Parameter[]): Promise<Row[]> =>
      tx.unsafe(text, [...parameters], { prepare: options.prepare }) as unknown as Promise<Row[]>
  const inside = (tx: postgres.TransactionSql<{ int8: number }>): Database => ({
    hot: queryOf(tx),
    calm: queryOf(tx),
    transaction: <T>(run: (query: ReturnType<typeof queryOf>) => Promise<T>) =>
      told(tx.savepoint((part) => run(queryOf(part))) as Promise<T>),
    together: <T>(run: (inside: Database) => Promise<T>) =>
      told(tx.savepoint((part) => run(inside(part))) as Promise<T>),
    load: () => [],
    close: async () => {},
  })

  return {
    hot: runner(hot),
    calm: (text, parameters) => again(() => runner(calm)(text, parameters)) as Promise<never>,
    transaction: <T>(
      run: (query: <Row>(text: string, parameters: readonly Parameter[]) => Promise<Row[]>) => Promise<T>,
    ) =>
      again(() =>
        calm.run(
          (sql) =>
            sql.begin((tx) =>
              run(async (text, parameters) => [...(await tx.unsafe(text, [...parameters]))] as never),
            ) as Promise<T>,
        ),
      ),
    together: <T>(run: (inside: Database) => Promise<T>) =>
      hot.run(
        (sql) =>
          sql.begin(async (tx) => {
            await tx.unsafe(togetherText)
            return await run(inside(tx))
          }) as Promise<T>,
        calmDeadlineMs,
      ),
    load: () => [
      { name: 'messages', size: hotSize, ...hot.load() },
      { name: 'administration', size: calmSize, ...calm.load() },
    ],
    close: async () => {
      hearing.close()
      await Promise.all([hot.end(), calm.end()])
    },
  }
}

type Pool = {
  run<T>(start: (sql: Sql) => Promise<T>, deadlineMs?: number): Promise<T>
  /** New connections; what still hangs on the old ones has failed. */
  renew(): void
  load(): { pending: number; fullMs: number }
  end(): Promise<void>
}

/** Waits for statements, but not for ever (the driver has no such limit of its own), and lets only so many wait. */
function pool(
  make: () => Sql,
  { size, deadlineMs: standardMs, hearing }: { size: number; deadlineMs: number; hearing: Hearing },
): Pool {
  let sql = make()
  let pending = 0
  let fullSinceMs: number | null = null

  function count(change: 1 | -1): void {
    pending += change
    fullSinceMs = pending > size ? (fullSinceMs ?? monotonicMs()) : null
  }

  async function run<T>(start: (sql: Sql) => Promise<T>, deadlineMs = standardMs): Promise<T> {
    if (hearing.silent()) throw away('The database does not answer.')
    if (pending >= mostPending) throw away('Too many statements wait for the database.')
    count(1)
    const { answered, over } = hearing.asked()
    const statement = start(sql)
    statement.then(answered, (error: unknown) => (isServers(error) ? answered() : over())).finally(() => count(-1))
    try {
      return await told(within(statement, deadlineMs + 1000))
    } catch (error) {
      throw error === late ? away('The database did not answer in time.') : error
    }
  }

  return {
    run,
    renew() {
      void sql.end({ timeout: 0 })
      sql = make()
    },
    load: () => ({ pending, fullMs: fullSinceMs === null ? 0 : monotonicMs() - fullSinceMs }),
    end: () => sql.end({ timeout: 5 }),
  }
}

/** Tells how long each statement took, the wait for a connection included, under the name in its comment. */
function timing(observe: ConnectOptions['observe']): <T>(text: string, statement: Promise<T>) => Promise<T> {
  if (!observe) return (_, statement) => statement
  // Texts are constants, so this stays as small as their number.
  const names = new Map<string, string>()
  const nameOf = (text: string): string => {
    let name = names.get(text)
    if (name === undefined) {
      name = /^\/\* ([a-z ]{1,40}) \*\//.exec(text)?.[1] ?? 'other'
      if (names.size < mostNames) names.set(text, name)
    }
    return name
  }
  return async (text, statement) => {
    const startMs = monotonicMs()
    try {
      const answer = await statement
      observe.statement(nameOf(text), monotonicMs() - startMs, 'done')
      return answer
    } catch (error) {
      const isUnavailable = error instanceof BrokerError && error.code === 'unavailable'
      const outcome = isUnavailable ? 'unavailable' : isAnswer(error) ? 'done' : 'failed'
      observe.statement(nameOf(text), monotonicMs() - startMs, outcome)
      throw error
    }
  }
}

/** A client for one purpose of its own, such as listening or migrating. */
export function open(
  options: Pick<ConnectOptions, 'databaseUrl' | 'prepare'>,
  max: number,
  settings: Record<string, string | number>,
): Sql {
  return postgres(options.databaseUrl, {
    max,
    prepare: options.prepare,
    fetch_types: false,
    onnotice: () => {},
    connect_timeout: 5,
    // The default waits up to 20 s between attempts, which would be 20 s of refusals after Postgres is back.
    backoff: () => 0.2,
    keep_alive: 15,
    connection: { application_name: 'postern', ...(options.prepare ? settings : {}) },
    // Positions and tokens stay below 2^53 (see base/clock): numbers are exact and cheap.
    types: { int8: { to: 20, from: [20], serialize: String, parse: Number } },
  })
}

/** What Postgres undid because it stood in the way of another (class 40: deadlock, serialization) is done again, twice at most. */
async function again<T>(run: () => Promise<T>): Promise<T> {
  for (let left = 2; ; left--) {
    try {
      return await run()
    } catch (error) {
      const cause = error instanceof BrokerError ? error.cause : error
      const undone = codeOf(cause)?.startsWith('40') === true
      if (left === 0 || !undone) throw error
    }
  }
}

async function told<T>(statement: Promise<T>): Promise<T> {
  try {
    return await statement
  } catch (error) {
    throw isAway(error) ? away('The database is not available.', error) : error
  }
}

const late = new Error('No answer in time.')

async function within<T>(statement: Promise<T>, ms: number): Promise<T> {
  let timer: Timer | undefined
  const deadline = new Promise<never>((_, reject) => {
    timer = after(ms, () => reject(late))
  })
  return await Promise.race([statement, deadline]).finally(() => timer?.cancel())
}

const away = (detail: string, cause?: unknown): BrokerError =>
  new BrokerError('unavailable', detail, { retryAfterS: 1, cause })

const isServers = (error: unknown): boolean => error instanceof Error && error.name === 'PostgresError'

const codeOf = (error: unknown): string | null =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null

/** What our own functions raise, so that all is undone, says something about queues and nothing about the database. */
const isAnswer = (error: unknown): boolean => codeOf(error)?.startsWith('PQ') === true

/** SQLSTATE classes and driver codes that mean "not now": connection, resources, operator intervention, conflicts. */
const awayStates = /^(08|53|57|40|25006$|55P03$)/
const awayCodes = new Set(['CONNECTION_CLOSED', 'CONNECTION_ENDED', 'CONNECTION_DESTROYED', 'CONNECT_TIMEOUT'])

function isAway(error: unknown): boolean {
  const code = codeOf(error)
  return code !== null && (awayCodes.has(code) || /^E[A-Z]+$/.test(code) || awayStates.test(code))
}

/** Whether the statement certainly did nothing: the server itself said no. A broken connection leaves it open. */
export function certainlyFailed(error: unknown): boolean {
  const cause = error instanceof BrokerError ? error.cause : error
  return isServers(cause) && codeOf(cause)?.startsWith('57') === false
}

/** An array parameter of numbers; cast it in the statement. */
export const numbers = (values: readonly number[]): string => `{${values.join(',')}}`

/** An array parameter of texts; cast it in the statement. */
export const texts = (values: readonly (string | null)[]): string => `{${values.map(quoted).join(',')}}`

/** Values as JSON texts in one parameter, in a form that costs less than an array: the statement takes it apart with `jsonTextsIn`. */
export const jsonTexts = (values: readonly (object | null)[]): string =>
  values.map((value) => (value === null ? '' : JSON.stringify(value))).join(separator)

/** JSON escapes this character wherever it stands in a text. */
const separator = '\x1e'

/** SQL: a parameter of `jsonTexts` as an array to unnest beside others: of one null alone it is empty. */
export const jsonTextsIn = (parameter: string): string => `string_to_array(${parameter}::text, chr(30), '')`

const quoted = (value: string | null): string => (value === null ? 'NULL' : `"${value.replace(/["\\]/g, '\\$&')}"`)

/** The numbers of a `bigint[]` or `int[]` in a result, which the driver leaves as text. */
export const numbersFrom = (text: string | null): number[] =>
  text === null || text === '{}'
    ? []
    : text
        .slice(1, -1)
        .split(',')
        .map((part) => (part === 'NULL' ? 0 : Number(part)))

/** Where each of several parts laid end to end begins, from 1. */
export function startsOf(lengths: readonly number[]): number[] {
  let next = 1
  return lengths.map((length) => {
    const start = next
    next += length
    return start
  })
}
