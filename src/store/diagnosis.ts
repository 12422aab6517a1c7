/**
 * What Postgres knows about itself that can stand in a queue's way. Needs no superuser: what the role may not see is said. Each statement
 * has a deadline of its own, so that asking what is wrong cannot become part of it.
 */
import type {
  BlockerFact,
  LateFacts,
  PreparedFact,
  ReplicaFact,
  ServerFacts,
  SessionFact,
  SlotFact,
  TableFact,
  UnservedFacts,
} from '../model/index.ts'
import { diagnosisLimits } from '../model/index.ts'
import type { Database } from './client.ts'

const deadline = '2s'

async function look<Row>(db: Database, text: string): Promise<Row[]> {
  return await db.transaction(async (query) => {
    await query(
      `/* bound the look */ select set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true)`,
      [deadline],
    )
    return await query<Row>(text, [])
  })
}

/** The count of pg_stat_database is seen by every role. */
const serverText = `/* diagnose server */
select current_setting('server_version_num')::int as version, current_user::text as role,
  array_to_string(array(select n from unnest(array['fsync', 'full_page_writes', 'synchronous_commit']) n where current_setting(n) = 'off'), ' ') as unsafe,
  array_to_string(array(select n from unnest(array['autovacuum', 'track_counts']) n where current_setting(n) = 'off'), ' ') as unvacuumed,
  (select coalesce(sum(numbackends), 0)::int from pg_stat_database) as connections,
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int as max_connections,
  pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_sessions`

export async function diagnoseServer(db: Database): Promise<ServerFacts> {
  type Row = {
    version: number
    role: string
    unsafe: string
    unvacuumed: string
    connections: number
    max_connections: number
    sees_sessions: boolean
  }
  const [row] = await look<Row>(db, serverText)
  if (!row) throw new Error('diagnose server: no row')
  const words = (text: string): string[] => text.split(' ').filter((word) => word !== '')
  return {
    version: row.version,
    unsafe: words(row.unsafe),
    unvacuumed: words(row.unvacuumed),
    connections: row.connections,
    maxConnections: row.max_connections,
    role: row.role,
    seesSessions: row.sees_sessions,
  }
}

/**
 * Sessions of this database whose snapshot or transaction is old, the oldest first; those of other databases hold back nothing here, and
 * autovacuum's own does not count.
 */
export async function diagnoseSessions(db: Database): Promise<SessionFact[]> {
  return await look<SessionFact>(
    db,
    `/* diagnose sessions */ select pid, usename::text as "user", nullif(application_name, '') as application, state, xact_start as "transactionAt",
        query_start as "queryAt", greatest(age(backend_xmin), age(backend_xid)) as age
      from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid() and (backend_xmin is not null or backend_xid is not null)
        and xact_start is not null and backend_type <> 'autovacuum worker'
      order by xact_start limit 5`,
  )
}

/**
 * Whoever stands in the way of statements of this role for so long, without waiting for anybody itself, those with the most behind them
 * first. Whom a role may not see has a number only; 0 is a prepared transaction's.
 */
const blockedText = `/* diagnose locks */
select b.pid, s.usename::text as "user", nullif(s.application_name, '') as application, s.state,
  coalesce(s.xact_start, s.backend_start, b.since) as "transactionAt", s.query_start as "queryAt", b.waiting, b.since as "waitingSince"
from (
  select x.pid, count(distinct w.pid)::int as waiting, min(w.query_start) as since
  from pg_stat_activity w cross join lateral unnest(pg_blocking_pids(w.pid)) x(pid)
  where w.datname = current_database() and w.usename = current_user and w.wait_event_type = 'Lock'
    and w.query_start < now() - ${diagnosisLimits.blockedMs} * interval '1 ms'
  group by x.pid) b
left join pg_stat_activity s on s.pid = b.pid
where b.pid = 0 or cardinality(pg_blocking_pids(b.pid)) = 0
order by b.waiting desc, b.pid limit 5`

export async function diagnoseBlocked(db: Database): Promise<BlockerFact[]> {
  const rows = await look<Omit<SessionFact, 'age'> & Pick<BlockerFact, 'waiting' | 'waitingSince'>>(db, blockedText)
  return rows.map(({ waiting, waitingSince, ...session }) => ({
    session: session.pid === 0 ? null : session,
    waiting,
    waitingSince,
  }))
}

export async function diagnoseSlots(db: Database): Promise<SlotFact[]> {
  return await look<SlotFact>(
    db,
    `/* diagnose slots */ select slot_name::text as name, active, age(xmin) as age,
        case when pg_is_in_recovery() then null else pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 end as "walBytes"
      from pg_replication_slots order by age(xmin) desc nulls last limit 20`,
  )
}

export async function diagnosePrepared(db: Database): Promise<PreparedFact[]> {
  return await look<PreparedFact>(
    db,
    `/* diagnose prepared transactions */ select gid as name, owner::text as owner, prepared as "preparedAt", age(transaction) as age
      from pg_prepared_xacts where database = current_database() order by prepared limit 5`,
  )
}

/** Standbys with hot_standby_feedback and without a slot. */
export async function diagnoseReplicas(db: Database): Promise<ReplicaFact[]> {
  return await look<ReplicaFact>(
    db,
    `/* diagnose replicas */ select pid, nullif(application_name, '') as application, backend_start as since, age(backend_xmin) as age
      from pg_stat_replication where backend_xmin is not null order by age(backend_xmin) desc limit 5`,
  )
}

export async function diagnoseTables(db: Database): Promise<TableFact[]> {
  return await look<TableFact>(
    db,
    `/* diagnose tables */ select relname::text as name, n_live_tup::float8 as live, n_dead_tup::float8 as dead,
        pg_total_relation_size(relid)::float8 as bytes, greatest(last_vacuum, last_autovacuum) as "vacuumedAt"
      from pg_stat_user_tables where schemaname = 'postern' order by n_dead_tup desc limit 5`,
  )
}

/** Primary keys of `scheduled` and `leases`, `schedules_next_fire`. */
export async function diagnoseLate(db: Database): Promise<LateFacts> {
  const [row] = await look<LateFacts>(
    db,
    `/* diagnose upkeep */ select
        (select due_at from postern.scheduled where due_at < now() order by due_at limit 1) as due,
        (select expires_at from postern.leases where expires_at < now() order by expires_at limit 1) as leases,
        (select next_fire_at from postern.schedules where next_fire_at < now() order by next_fire_at limit 1) as schedules`,
  )
  return row ?? { due: null, leases: null, schedules: null }
}

/** Enabled webhooks that no living gateway owns, unless they were changed just now. */
export async function diagnoseUnserved(db: Database): Promise<UnservedFacts> {
  const [row] = await look<UnservedFacts>(
    db,
    `/* diagnose subscriptions */ select count(*)::int as count, min(s.name) as first, min(s.updated_at) as since from postern.subscriptions s
      where s.disabled is null and s.updated_at < now() - interval '15 seconds'
        and not exists (select 1 from postern.gateways g where g.id = s.owner and g.alive_until > now())`,
  )
  return row ?? { count: 0, first: null, since: null }
}
