/** Tasks: what is to be done, how far it is, and which gateway does it. The steps themselves are in letters.ts. */
import type { LetterFilter, Rate, RedriveRequest, Task } from '../model/index.ts'
import { browseStart } from './browse.ts'
import { type Database, numbers } from './client.ts'
import type { RedriveFrom } from './letters.ts'

type TaskRow = {
  id: number
  name: string
  kind: Task['kind']
  queue_id: number
  queue: string
  target_id: number | null
  target: string | null
  origin_ids: string | null
  filter: LetterFilter
  most: number | null
  rate_count: number | null
  rate_per_ms: number | null
  dry_run: boolean
  state: Task['state']
  at: RedriveFrom
  at_first: number
  at_second: number
  up_to: number
  scanned: number
  matched: number
  moved: number
  skipped: number
  error: string | null
  created_at: Date
  updated_at: Date
  finished_at: Date | null
}

/** `originIds`: queues whose letters among the ready messages go back to them; null leaves ready messages alone. */
export type NewTask = Omit<RedriveRequest, 'to'> & {
  name: string
  queue: { id: number; name: string }
  target: { id: number; name: string } | null
  originIds: readonly number[] | null
}

/** Of what lies in the queue by now: what dies again while the task runs has later positions. */
export async function insertTask(db: Database, task: NewTask): Promise<Task> {
  const [row] = await db.calm<TaskRow>(
    `/* insert task */ insert into postern.tasks (name, kind, queue_id, queue, target_id, target, origin_ids, filter, most, rate_count,
        rate_per_ms, dry_run, at_first, at_second, up_to)
      values ($1, 'redrive', $2::int, $3, $4::int, $5, $6::int[], $7::text::jsonb, $8::bigint, $9::int, $10::bigint, $11::boolean,
        $12::float8, $13::float8::bigint, (select last_value from postern.message_position)) returning *`,
    [
      task.name,
      task.queue.id,
      task.queue.name,
      task.target?.id ?? null,
      task.target?.name ?? null,
      task.originIds && numbers(task.originIds),
      JSON.stringify(task.filter),
      task.limit,
      task.rate?.count ?? null,
      task.rate?.perMs ?? null,
      task.dryRun,
      browseStart.first,
      browseStart.second,
    ],
  )
  if (!row) throw new Error('insert task: no row')
  return taskFrom(row)
}

/** Index `tasks_name`. */
export async function findTask(db: Database, name: string): Promise<Task | null> {
  const [row] = await db.calm<TaskRow>('/* find task */ select * from postern.tasks where name = $1', [name])
  return row ? taskFrom(row) : null
}

/** Newest first, those begun before the one with this number; of one queue, or of all. Primary key. */
export async function listTasks(
  db: Database,
  queue: string | null,
  before: number,
  limit: number,
): Promise<{ number: number; task: Task }[]> {
  const rows = await db.calm<TaskRow>(
    `/* list tasks */ select * from postern.tasks where id < $1::bigint and ($2::text is null or queue = $2) order by id desc limit $3::int`,
    [before, queue, limit],
  )
  return rows.map((row) => ({ number: row.id, task: taskFrom(row) }))
}

/** Takes up to `most` tasks that nobody holds any more; skips what others are taking. Index `tasks_running`. */
export async function claimTasks(db: Database, gateway: string, aliveMs: number, most: number): Promise<number[]> {
  const rows = await db.calm<{ id: number }>(
    `/* claim tasks */ update postern.tasks set owner = $1, leased_until = now() + $2::bigint * interval '1 ms' where id = any (array(
        select id from postern.tasks where state = 'running' and (owner is null or leased_until < now())
        order by id limit $3::int for update skip locked)) returning id`,
    [gateway, aliveMs, most],
  )
  return rows.map((row) => row.id)
}

export type HeldTask = Task & {
  number: number
  queueId: number
  targetId: number | null
  filter: LetterFilter
  limit: number | null
  rate: Rate | null
  /** Where it goes on. */
  from: RedriveFrom
  at: { first: number; second: number }
  upTo: number
  /** What is looked through after that. */
  next: RedriveFrom | null
  /** Ids, by name, of the queues to which letters among the ready messages may return. */
  origins: Record<string, number>
  queueThere: boolean
  targetThere: boolean
}

/** A heartbeat, and how far the task is. null: it is finished, or another gateway's. Primary key. */
export async function holdTask(
  db: Database,
  gateway: string,
  number: number,
  aliveMs: number,
): Promise<HeldTask | null> {
  type Row = TaskRow & {
    queue_there: boolean
    target_there: boolean
    some_wait: boolean
    origins: Record<string, number> | null
  }
  const [row] = await db.calm<Row>(
    `/* hold task */ update postern.tasks t set leased_until = now() + $3::bigint * interval '1 ms'
      where t.id = $1::int and t.owner = $2 and t.state = 'running'
      returning t.*, exists (select 1 from postern.queues q where q.id = t.queue_id) as queue_there,
        t.target_id is null or exists (select 1 from postern.queues q where q.id = t.target_id) as target_there,
        t.at = 'dead' and exists (select 1 from postern.waiting w where w.queue_id = t.queue_id) as some_wait,
        (select jsonb_object_agg(q.name, q.id) from postern.queues q where q.id = any (t.origin_ids)) as origins`,
    [number, gateway, aliveMs],
  )
  if (!row) return null
  return {
    ...taskFrom(row),
    number: row.id,
    queueId: row.queue_id,
    targetId: row.target_id,
    filter: row.filter,
    limit: row.most,
    rate: row.rate_count === null ? null : { count: row.rate_count, perMs: row.rate_per_ms ?? 1000 },
    from: row.at,
    at: { first: row.at_first, second: row.at_second },
    upTo: row.up_to,
    next: row.origin_ids === null || row.at === 'messages' ? null : row.some_wait ? 'waiting' : 'messages',
    origins: row.origins ?? {},
    queueThere: row.queue_there,
    targetThere: row.target_there,
  }
}

/** From one table to the next. Primary key. */
export async function turnTask(
  db: Database,
  gateway: string,
  number: number,
  from: RedriveFrom,
  to: RedriveFrom,
): Promise<void> {
  await db.calm(
    `/* turn task */ update postern.tasks set at = $6, at_first = $3::float8, at_second = $4::float8::bigint, updated_at = now()
      where id = $1::int and owner = $2 and state = 'running' and at = $5`,
    [number, gateway, browseStart.first, browseStart.second, from, to],
  )
}

/** Primary key. */
export async function finishTask(
  db: Database,
  gateway: string,
  number: number,
  state: 'done' | 'failed',
  error: string | null,
): Promise<void> {
  await db.calm(
    `/* finish task */ update postern.tasks set state = $3, error = $4, owner = null, updated_at = now(), finished_at = now()
      where id = $1::int and owner = $2 and state = 'running'`,
    [number, gateway, state, error],
  )
}

/** After it nothing more is done: the row's lock waits for the step under way. One that is finished stays as it is. Index `tasks_name`. */
export async function cancelTask(db: Database, name: string): Promise<void> {
  await db.calm(
    `/* cancel task */ update postern.tasks set state = 'cancelled', error = null, owner = null, updated_at = now(), finished_at = now()
      where name = $1 and state = 'running'`,
    [name],
  )
}

/** Others may go on with what this gateway held. Index `tasks_running`. */
export async function releaseTasks(db: Database, gateway: string): Promise<void> {
  await db.calm(`/* release tasks */ update postern.tasks set owner = null where state = 'running' and owner = $1`, [
    gateway,
  ])
}

/** Cancelled ones after a day, others a week after their end; at most `limit`. Index `tasks_finished`. */
export async function forgetTasks(db: Database, limit: number): Promise<void> {
  await db.calm(
    `/* forget tasks */ delete from postern.tasks where id = any (array(
        select id from postern.tasks where finished_at < now() - interval '1 day'
          and (state = 'cancelled' or finished_at < now() - interval '7 days') order by finished_at limit $1::int for update skip locked))`,
    [limit],
  )
}

/** The queues whose dead letters come to this one. Index `queues_dead_letter_queue`. */
export async function deadLetterOrigins(db: Database, queueId: number): Promise<{ id: number; name: string }[]> {
  return await db.calm(
    '/* dead letter origins */ select id, name from postern.queues where dead_letter_queue_id = $1::int order by name',
    [queueId],
  )
}

/** The name of a queue on the way of these queues' dead letters to which they come a second time; null when they come to rest. */
export async function deadLetterLoop(db: Database, queueIds: readonly number[]): Promise<string | null> {
  const [row] = await db.calm<{ name: string }>(
    `/* dead letter loop */ with recursive c(id, next_id, way) as (
        select id, dead_letter_queue_id, array[id] from postern.queues where id = any ($1::int[])
        union all
        select q.id, q.dead_letter_queue_id, c.way || q.id from c join postern.queues q on q.id = c.next_id where not q.id = any (c.way))
      select q.name from c join postern.queues q on q.id = c.next_id where c.next_id = any (c.way) order by q.name limit 1`,
    [numbers(queueIds)],
  )
  return row?.name ?? null
}

const taskFrom = (row: TaskRow): Task => ({
  id: row.name,
  kind: row.kind,
  queue: row.queue,
  to: row.target,
  state: row.state,
  dryRun: row.dry_run,
  scanned: row.scanned,
  matched: row.matched,
  moved: row.moved,
  skipped: row.skipped,
  error: row.error,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
  finishedAt: row.finished_at,
})
