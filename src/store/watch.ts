/** What whoever watches asks of the database, now and then: what there is to count, and what holds it back. */
import type { Database } from './client.ts'

export type WatchedQueue = { id: number; name: string; paused: boolean }

/** All queues in the order of their creation, backlogs too. Primary key of `queues`. */
export async function watchedQueues(db: Database, limit: number): Promise<WatchedQueue[]> {
  return await db.calm<WatchedQueue>(
    '/* watched queues */ select id, name, paused from postern.queues order by id limit $1::int',
    [limit],
  )
}

export type DatabaseState = {
  /** Seconds since the oldest transaction began that holds back vacuum in this database; 0: none does. As far as this role may see. */
  oldestTransactionS: number
  /** Deleted rows that vacuum has not removed, as Postgres estimates them, by table. */
  deadRows: Record<string, number>
  /** Subscriptions by state: `enabled`, or why they are disabled. */
  subscriptions: Record<string, number>
}

/**
 * A transaction holds back vacuum while it has a snapshot or an id; autovacuum's own do not, and one that is prepared has no session.
 * Reads views and a small table; no index.
 */
const stateText = `/* watch */
select greatest(0,
    (select coalesce(max(date_part('epoch', clock_timestamp() - xact_start)), 0) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid() and backend_type <> 'autovacuum worker'
        and (backend_xmin is not null or backend_xid is not null)),
    (select coalesce(max(date_part('epoch', clock_timestamp() - prepared)), 0) from pg_prepared_xacts where database = current_database())
  ) as oldest_transaction_s,
  (select coalesce(jsonb_object_agg(relname, n_dead_tup), '{}') from pg_stat_user_tables
    where schemaname = 'postern' and relname in ('messages', 'scheduled', 'leases', 'waiting', 'dead', 'topic_log')) as dead_rows,
  (select coalesce(jsonb_object_agg(state, n), '{}') from (
    select coalesce(disabled, 'enabled') as state, count(*) as n from postern.subscriptions group by 1) s) as subscriptions`

type StateRow = {
  oldest_transaction_s: number
  dead_rows: Record<string, number>
  subscriptions: Record<string, number>
}

export async function databaseState(db: Database): Promise<DatabaseState> {
  const [row] = await db.calm<StateRow>(stateText, [])
  return {
    oldestTransactionS: row?.oldest_transaction_s ?? 0,
    deadRows: row?.dead_rows ?? {},
    subscriptions: row?.subscriptions ?? {},
  }
}
