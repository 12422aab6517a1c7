/** A line in the words of the Elastic Common Schema, so that Elasticsearch needs neither parsing nor a mapping of ours. */

/** https://www.elastic.co/docs/reference/ecs/ecs-field-reference. What has no name there is ours, under `postern.`. */
const names: Record<string, string> = {
  event: 'event.action',
  code: 'error.code',
  failure: 'error.message',
  method: 'http.request.method',
  request_id: 'http.request.id',
  bytes_in: 'http.request.body.bytes',
  bytes_out: 'http.response.body.bytes',
  status: 'http.response.status_code',
  path: 'url.path',
  url: 'url.full',
  client: 'client.address',
  principal: 'user.id',
  trace_id: 'trace.id',
}

const nanosecondsInMs = 1_000_000

/** `fields`: without secrets; an `err` is described already. Dotted names, which Elasticsearch takes for the nested ones. */
export function ecsFields(fields: Record<string, unknown>, level: string): Record<string, unknown> {
  const found: Record<string, unknown> = { 'event.kind': 'event', 'event.outcome': outcomeOf(fields, level) }
  for (const field in fields) {
    const value = fields[field]
    if (value === null) continue
    if (field === 'duration_ms') found['event.duration'] = Math.round(Number(value) * nanosecondsInMs)
    else if (field === 'err') Object.assign(found, errorFields(value as Described))
    else if (field === 'error') Object.assign(found, textFields(String(value)))
    else found[names[field] ?? `postern.${field}`] = value
  }
  if (fields.event === 'request') {
    found['event.category'] = ['web']
    found['event.type'] = ['access']
  }
  return found
}

function outcomeOf({ event, status, verdict }: Record<string, unknown>, level: string): 'success' | 'failure' {
  if (verdict !== undefined) return verdict === 'settle' ? 'success' : 'failure'
  if (event === 'request') return typeof status === 'number' && status > 0 && status < 400 ? 'success' : 'failure'
  return level === 'info' ? 'success' : 'failure'
}

type Described = { type?: unknown; message?: unknown; code?: unknown; stack?: unknown; cause?: Described }

function errorFields(error: Described): Record<string, unknown> {
  const stacks: unknown[] = []
  for (let each: Described | undefined = error; each; each = each.cause) stacks.push(each.stack)
  return {
    'error.type': error.type,
    'error.message': error.message,
    ...(error.code === undefined ? {} : { 'error.code': String(error.code) }),
    'error.stack_trace': stacks.join('\ncaused by: '),
  }
}

/** What is longer than a line is a stack. */
function textFields(text: string): Record<string, unknown> {
  const end = text.indexOf('\n')
  return end === -1 ? { 'error.message': text } : { 'error.message': text.slice(0, end), 'error.stack_trace': text }
}
