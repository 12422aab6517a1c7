/** `postern redrive` and `postern tasks`: dead letters sent on their way again, and how far that is. */
import type { Command } from 'commander'
import { sleep } from '../base/index.ts'
import { CliError, type Client, everyPage, jsonBody, queuePath, taskPath } from './client.ts'
import type { Context } from './context.ts'
import { fieldTable, progress, table } from './output.ts'
import { parsed } from './topics.ts'

type Task = {
  id: string
  queue: string
  to: string | null
  state: 'running' | 'done' | 'cancelled' | 'failed'
  dry_run: boolean
  scanned: number
  matched: number
  moved: number
  skipped: number
  error: string | null
  created_at: string
}
type Options = { to?: string; filter?: string; limit?: string; rate?: string; dryRun?: boolean; wait?: boolean }

const lookEveryMs = 300

export function redriveCommand(program: Command, context: Context): void {
  program
    .command('redrive')
    .description('make the dead letters of a queue ready again, in the background')
    .argument('<queue>')
    .option('--to <queue>', 'the queue that gets them (the one each died in)')
    .option('--filter <json>', 'over headers, body, reason, key, died_after, died_before')
    .option('--limit <count>', 'at most so many')
    .option('--rate <rate>', 'such as 10/s, 600/m (as fast as it goes)')
    .option('--dry-run', 'only count')
    .option('--wait', 'until it has ended; fails if it does')
    .action(async (queue: string, options: Options, command: Command) => {
      const { client, out } = context(command)
      const begun = await client.json<Task>('POST', queuePath(queue, '/redrive'), jsonBody(requestFrom(options)))
      const task = options.wait ? await ended(client, begun) : begun
      await out.data(task, () => (options.wait ? `${task.id}: ${summary(task)}` : task.id))
      if (!options.wait) out.note(`postern tasks show ${task.id} says how far it is.`)
      if (options.wait && task.state !== 'done') process.exitCode = 1
    })
}

/** Only what was given, as the API takes it. */
function requestFrom({ to, filter, limit, rate, dryRun }: Options): Record<string, unknown> {
  if (limit !== undefined && !/^\d+$/.test(limit)) throw new CliError(2, `--limit ${limit}: this is no whole number`)
  return {
    to,
    filter: filter === undefined ? undefined : parsed('--filter', filter),
    limit: limit === undefined ? undefined : Number(limit),
    rate,
    dry_run: dryRun,
  }
}

async function ended(client: Client, begun: Task): Promise<Task> {
  const line = progress()
  let task = begun
  while (task.state === 'running') {
    line.show(`${task.id}: ${summary(task)}`)
    await sleep(lookEveryMs)
    task = await client.json<Task>('GET', taskPath(task.id))
  }
  line.end()
  return task
}

function summary(task: Task): string {
  const what = task.dry_run
    ? `${task.matched} of ${task.scanned} match`
    : `${task.moved} moved, ${task.skipped} skipped, of ${task.scanned} looked at`
  return `${task.state}, ${what}${task.error === null ? '' : `: ${task.error}`}`
}

export function tasksCommand(program: Command, context: Context): void {
  const tasks = program.command('tasks').description('look at tasks, or cancel one')
  tasks
    .command('list', { isDefault: true })
    .description('the newest first')
    .option('--queue <queue>', 'of this queue only')
    .action(async ({ queue }: { queue?: string }, command: Command) => {
      const { client, out } = context(command)
      const rows = await everyPage<Task>(client, '/v1/tasks', { queue })
      await out.data(rows, () =>
        table(
          ['ID', 'QUEUE', 'STATE', 'MOVED', 'CREATED'],
          rows.map((task) => [task.id, task.queue, task.state, String(task.moved), task.created_at]),
        ),
      )
    })
  tasks
    .command('show')
    .description('how far it is')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const task = await client.json<Task>('GET', taskPath(id))
      await out.data(task, () => fieldTable(task))
    })
  tasks
    .command('cancel')
    .description('do nothing more; what is done stays done')
    .argument('<id>')
    .action(async (id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      await client.call('DELETE', taskPath(id))
      const task = await client.json<Task>('GET', taskPath(id))
      await out.data(task, () => `${id}: ${summary(task)}`)
    })
}
