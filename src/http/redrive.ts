/** Dead letters sent on their way again, and the tasks that do it. What a key may do with a task, its queue says. */
import { createRoute, z } from '@hono/zod-openapi'
import {
  type Action,
  BrokerError,
  everyLetter,
  type Principal,
  subscriptionLimits,
  type Task,
  taskLimits,
  taskStates,
} from '../model/index.ts'
import { empty, json } from './answer.ts'
import { type Endpoint, endpoint, forbidden, permits, type Site } from './endpoint.ts'
import { integer, name, page, pageOf, rateIn, timeOut } from './fields.ts'
import { letterFilterIn } from './letter_filter.ts'
import { jsonIn, jsonOf, objectOf, problems, queueParam, security } from './route.ts'

const tags = ['dead letters']
const idPattern = /^task_[0-9a-z]{1,60}$/

const redriveIn = objectOf(
  {
    to: name.nullish().openapi({
      description: 'The queue that gets them. Unless given, each returns to the queue it died in.',
    }),
    filter: letterFilterIn.optional(),
    limit: integer(taskLimits.letters).nullish().openapi({ description: 'At most so many letters.' }),
    rate: rateIn(subscriptionLimits.rateCount.max).openapi({ description: 'At most so many letters in that time.' }),
    dry_run: z.boolean('must be true or false').optional().openapi({ default: false, description: 'Only count.' }),
  },
  'must be an object with to, filter, limit, rate, dry_run',
).openapi('Redrive')

/** To look at a task, either. */
const sufficient = ['read', 'manage'] as const satisfies readonly Action[]

const count = (description: string) => z.int().openapi({ description })

const taskOut = z
  .strictObject({
    id: z.string().openapi({ example: 'task_0b1c2d3e4f5a6b7c8d9e' }),
    kind: z.enum(['redrive']),
    queue: z.string(),
    to: z.string().nullable().openapi({ description: 'null: each letter returns to the queue it died in.' }),
    state: z.enum(taskStates),
    dry_run: z.boolean(),
    scanned: count('Letters looked at so far.'),
    matched: count('Those of them that the filter matches.'),
    moved: count('Those that are ready again.'),
    skipped: count(
      'Those that stayed: changed or taken by somebody else meanwhile, too large for the queue, or without one to return to.',
    ),
    error: z.string().nullable().openapi({ description: 'Why it failed; while it runs, what it waits for.' }),
    created_at: timeOut,
    updated_at: timeOut,
    finished_at: timeOut.nullable(),
  })
  .openapi('Task')

const redriveRoute = createRoute({
  method: 'post',
  path: '/v1/queues/{queue}/redrive',
  operationId: 'redriveQueue',
  summary: 'Make dead letters ready again, in the background',
  description:
    'The dead letters of the queue; when it is the dead-letter queue of others, also its ready messages that came from them. They keep their ids and their attempts begin anew. Those that die while the task runs are left alone. A full queue is waited for. The task outlives the gateway that runs it; it is kept for a week, or a day when cancelled. The key must be allowed to manage this queue, and to manage or send to those that get the letters.',
  tags,
  security,
  request: { params: queueParam, body: jsonIn(redriveIn) },
  responses: {
    202: { ...jsonOf(taskOut, 'Begun'), headers: z.object({ Location: z.string() }) },
    ...problems(401, 403, 404, 413, 415),
  },
})

const redrive = endpoint(redriveRoute, 'manage', async (call) => {
  const { broker, queue, principal } = call
  const { to = null, filter = everyLetter, limit = null, rate = null, dry_run: dryRun = false } = await call.json()
  const may = (target: string) =>
    permits(principal, 'manage', 'queues', target) || permits(principal, 'send', 'queues', target)
  if (to !== null && !may(to)) throw forbidden('send', to)
  const task = await broker.admin.redrive(queue, { to, filter, limit, rate, dryRun }, may)
  return json(202, taskJson(task), { Location: `/v1/tasks/${task.id}` })
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/tasks',
  operationId: 'listTasks',
  summary: 'Tasks on queues that the key may read or manage, the newest first',
  tags,
  security,
  request: { query: z.strictObject({ queue: name.optional(), ...page }) },
  responses: { 200: jsonOf(pageOf(taskOut).openapi('TaskList'), 'A page'), ...problems(401, 403) },
})

const list = endpoint(listRoute, 'key', async ({ broker, principal, query }) => {
  const may = (queue: string) => sufficient.some((action) => permits(principal, action, 'queues', queue))
  const mayAny =
    principal?.root ||
    principal?.scopes.some(
      ({ actions, queues }) => queues.length > 0 && sufficient.some((each) => actions.includes(each)),
    )
  if (!mayAny) throw new BrokerError('forbidden', 'This API key has no scope to read or manage queues.')
  if (query.queue !== undefined && !may(query.queue)) throw forbidden('read', query.queue)
  const { data, nextCursor } = await broker.admin.listTasks({
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
    queue: query.queue ?? null,
    may: (task) => may(task.queue),
  })
  return json(200, { data: data.map(taskJson), next_cursor: nextCursor })
})

const taskParam = z.object({ id: z.string().openapi({ example: 'task_0b1c2d3e4f5a6b7c8d9e' }) })

const getRoute = createRoute({
  method: 'get',
  path: '/v1/tasks/{id}',
  operationId: 'getTask',
  summary: 'How far a task is',
  tags,
  security,
  request: { params: taskParam },
  responses: { 200: jsonOf(taskOut, 'The task'), ...problems(401, 403, 404) },
})

const get = endpoint(getRoute, 'key', async (call) => json(200, taskJson(await taskFor(call, sufficient))))

const cancelRoute = createRoute({
  method: 'delete',
  path: '/v1/tasks/{id}',
  operationId: 'cancelTask',
  summary: 'Cancel a task; one that is finished stays as it is',
  tags,
  security,
  request: { params: taskParam },
  responses: { 204: { description: 'It does nothing more' }, ...problems(401, 403, 404) },
})

const cancel = endpoint(cancelRoute, 'key', async (call) => {
  const { id } = await taskFor(call, ['manage'])
  await call.broker.admin.cancelTask(id)
  return empty()
})

export const redriveEndpoints: readonly Endpoint[] = [redrive, list, get, cancel]

type Caller = Pick<Site, 'broker'> & { principal: Principal | null; param(name: string): string }

/** The one in the path. Throws task_not_found also when the key may not even look at it: no id can be probed. */
async function taskFor({ broker, principal, param }: Caller, enough: readonly Action[]): Promise<Task> {
  const id = param('id')
  const unknown = () => new BrokerError('task_not_found', `There is no task ${id}.`)
  if (!idPattern.test(id)) throw unknown()
  const task = await broker.admin.getTask(id)
  const may = (action: Action) => permits(principal, action, 'queues', task.queue)
  if (enough.some(may)) return task
  throw sufficient.some(may) ? forbidden(enough[0] ?? 'manage', task.queue) : unknown()
}

const taskJson = (task: Task): z.input<typeof taskOut> => ({
  id: task.id,
  kind: task.kind,
  queue: task.queue,
  to: task.to,
  state: task.state,
  dry_run: task.dryRun,
  scanned: task.scanned,
  matched: task.matched,
  moved: task.moved,
  skipped: task.skipped,
  error: task.error,
  created_at: task.createdAt.toISOString(),
  updated_at: task.updatedAt.toISOString(),
  finished_at: task.finishedAt?.toISOString() ?? null,
})
