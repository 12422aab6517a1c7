/** Schedules: create or replace, look at, pause, run. What a key may do with one, its queue or topic says. */
import { createRoute, z } from '@hono/zod-openapi'
import { type Action, BrokerError, type Principal, type Schedule, type ScheduleTarget } from '../model/index.ts'
import { empty, json } from './answer.ts'
import { checkName, type Endpoint, endpoint, forbidden, permits } from './endpoint.ts'
import { checkAnswers, countAnswer } from './exchange.ts'
import { name, page, pageOf, timeOut } from './fields.ts'
import { bodyBytes } from './receive.ts'
import { jsonIn, jsonOf, problems, security } from './route.ts'
import { clockNotes, readSchedule, scheduleIn, scheduleJson, scheduleOut } from './schedule_settings.ts'

const tags = ['schedules']
const request = { params: z.object({ name }) }

const may = (principal: Principal | null, action: Action, target: ScheduleTarget): boolean =>
  'queue' in target
    ? permits(principal, action, 'queues', target.queue)
    : permits(principal, action, 'topics', target.topic)

const refused = (action: Action, target: ScheduleTarget): BrokerError =>
  'queue' in target ? forbidden(action, target.queue) : forbidden(action, target.topic, 'topic')

/** Throws schedule_not_found also when the key may not even look at it. */
const checking =
  (principal: Principal | null, action: Action) =>
  ({ name, target }: Schedule): void => {
    if (may(principal, action, target)) return
    if (may(principal, 'read', target) || may(principal, 'manage', target)) throw refused(action, target)
    throw new BrokerError('schedule_not_found', `There is no schedule ${name}.`)
  }

const nameOf = ({ param }: { param(name: string): string }): string => checkName('path/name', param('name'))

const putRoute = createRoute({
  method: 'put',
  path: '/v1/schedules/{name}',
  operationId: 'putSchedule',
  summary: 'Create or replace a schedule',
  description: `Each fire sends one message, whichever and however many gateways run; its headers say \`postern-schedule\` and \`postern-fire-time\`. A schedule that is put with the same cron and timezone keeps its step. ${clockNotes} The key must be allowed to manage the queue or topic, and that of the schedule it replaces.`,
  tags,
  security,
  request: { ...request, body: jsonIn(scheduleIn) },
  responses: {
    200: jsonOf(scheduleOut, 'Replaced'),
    201: { ...jsonOf(scheduleOut, 'Created'), headers: z.object({ Location: z.string() }) },
    ...problems(401, 403, 409, 413, 415),
  },
})

const put = endpoint(putRoute, 'key', async (call) => {
  const { broker, principal, exchange, maxBodyBytes } = call
  const schedule = nameOf(call)
  const given = await readSchedule(exchange, maxBodyBytes)
  if (!may(principal, 'manage', given.target)) throw refused('manage', given.target)
  const { schedule: stored, created } = await broker.admin.putSchedule(schedule, given, (before) => {
    if (before && !may(principal, 'manage', before.target))
      throw new BrokerError('forbidden', `This API key has no scope to replace the schedule ${schedule}.`)
  })
  if (!created) return json(200, scheduleJson(stored))
  return json(201, scheduleJson(stored), { Location: `/v1/schedules/${schedule}` })
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/schedules',
  operationId: 'listSchedules',
  summary: 'Schedules for queues and topics that the key may read, by name',
  tags,
  security,
  request: { query: z.strictObject(page) },
  responses: { 200: jsonOf(pageOf(scheduleOut).openapi('ScheduleList'), 'A page'), ...problems(401, 403) },
})

const list = endpoint(listRoute, 'key', async ({ broker, exchange, principal, query }) => {
  const mayReadAny = principal?.root || principal?.scopes.some(({ actions }) => actions.includes('read'))
  if (!mayReadAny) throw new BrokerError('forbidden', 'This API key has no scope to read queues or topics.')
  checkAnswers(exchange)
  const { data, nextCursor } = await broker.admin.listSchedules({
    limit: query.limit ?? 100,
    cursor: query.cursor ?? null,
    may: ({ target }) => may(principal, 'read', target),
  })
  countAnswer(exchange, bodyBytes(data.map(({ message }) => message)))
  return json(200, { data: data.map(scheduleJson), next_cursor: nextCursor })
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/schedules/{name}',
  operationId: 'getSchedule',
  summary: 'What it sends, when it fires next, and how the last fire went',
  tags,
  security,
  request,
  responses: { 200: jsonOf(scheduleOut, 'The schedule'), ...problems(401, 403, 404) },
})

const get = endpoint(getRoute, 'key', async (call) => {
  const found = await call.broker.admin.getSchedule(nameOf(call))
  checking(call.principal, 'read')(found)
  return json(200, scheduleJson(found))
})

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/schedules/{name}',
  operationId: 'deleteSchedule',
  summary: 'Delete a schedule; what it has sent stays',
  tags,
  security,
  request,
  responses: { 204: { description: 'Gone' }, ...problems(401, 403, 404) },
})

const remove = endpoint(deleteRoute, 'key', async (call) => {
  await call.broker.admin.deleteSchedule(nameOf(call), checking(call.principal, 'manage'))
  return empty()
})

const pauseRoute = createRoute({
  method: 'post',
  path: '/v1/schedules/{name}/pause',
  operationId: 'pauseSchedule',
  summary: 'Do not fire until resumed',
  tags,
  security,
  request,
  responses: { 200: jsonOf(scheduleOut, 'The schedule'), ...problems(401, 403, 404) },
})

const pause = endpoint(pauseRoute, 'key', async (call) =>
  json(200, scheduleJson(await call.broker.admin.pauseSchedule(nameOf(call), checking(call.principal, 'manage')))),
)

const resumeRoute = createRoute({
  method: 'post',
  path: '/v1/schedules/{name}/resume',
  operationId: 'resumeSchedule',
  summary: 'Fire again, from now on: fires of the pause are not made up for',
  tags,
  security,
  request,
  responses: { 200: jsonOf(scheduleOut, 'The schedule'), ...problems(401, 403, 404) },
})

const resume = endpoint(resumeRoute, 'key', async (call) =>
  json(200, scheduleJson(await call.broker.admin.resumeSchedule(nameOf(call), checking(call.principal, 'manage')))),
)

const runRoute = createRoute({
  method: 'post',
  path: '/v1/schedules/{name}/run',
  operationId: 'runSchedule',
  summary: 'Send its message now, also while it is paused; the next fire stays as it is',
  tags,
  security,
  request,
  responses: {
    202: jsonOf(
      z
        .strictObject({ id: z.string().openapi({ description: 'Of the message.' }), at: timeOut })
        .openapi('ScheduleRun'),
      'Sent',
    ),
    ...problems(401, 403, 404, 429),
  },
})

const run = endpoint(runRoute, 'key', async (call) => {
  const { id, at } = await call.broker.admin.runSchedule(nameOf(call), checking(call.principal, 'manage'))
  return json(202, { id, at: at.toISOString() })
})

export const scheduleEndpoints: readonly Endpoint[] = [put, list, get, remove, pause, resume, run]
