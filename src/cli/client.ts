/** Talks to a running gateway; every refusal becomes an error that says what to do. */

export type CallOptions = {
  query?: Record<string, string | undefined>
  /** Sent as it is. */
  body?: string | Buffer
  type?: string
  headers?: Record<string, string>
  signal?: AbortSignal
  /** Refusals are answers too. */
  anyStatus?: boolean
}

export type Client = {
  /** Throws CliError when the gateway refuses or is not there. */
  call(method: string, path: string, options?: CallOptions): Promise<Response>
  json<T>(method: string, path: string, options?: CallOptions): Promise<T>
}

/** Exit codes: 1 the gateway refused, 2 wrong usage, 3 no gateway there. */
export class CliError extends Error {
  readonly exitCode: 1 | 2 | 3
  /** The HTTP status of a refusal. */
  readonly status: number | null

  constructor(exitCode: 1 | 2 | 3, message: string, status: number | null = null) {
    super(message)
    this.name = 'CliError'
    this.exitCode = exitCode
    this.status = status
  }
}

type Problem = { title?: string; detail?: string; code?: string; errors?: { pointer: string; detail: string }[] }

/** `url` may have a path of its own, under which the gateway is reached. */
export function createClient(url: string, key: string | undefined): Client {
  const base = url.replace(/\/+$/, '')
  if (!/^https?:\/\//.test(base) || !URL.canParse(base))
    throw new CliError(2, `${url} is no URL: write it as http://127.0.0.1:7070`)

  async function call(method: string, path: string, options: CallOptions = {}): Promise<Response> {
    const target = new URL(base + path)
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) target.searchParams.set(name, value)
    const headers = { ...options.headers }
    if (key) headers.authorization = `Bearer ${key}`
    if (options.type) headers['content-type'] = options.type
    const answer = await fetch(target, {
      method,
      headers,
      ...(options.body === undefined ? {} : { body: options.body }),
      ...(options.signal ? { signal: options.signal } : {}),
    }).catch((error: unknown) => {
      throw options.signal?.aborted ? error : unreached(base, error)
    })
    if (!answer.ok && !options.anyStatus) throw await refused(answer)
    return answer
  }

  return { call, json: async <T>(...words: Parameters<Client['call']>) => (await (await call(...words)).json()) as T }
}

/** Whether it is worth asking again: no gateway there at the moment, or one that is overloaded. */
export const mayPass = (error: unknown): error is CliError =>
  error instanceof CliError && (error.exitCode === 3 || error.status === 503 || error.status === 429)

export const queuePath = (queue: string, rest = ''): string => `/v1/queues/${encodeURIComponent(queue)}${rest}`

export const topicPath = (topic: string, rest = ''): string => `/v1/topics/${encodeURIComponent(topic)}${rest}`

export const bindingPath = (topic: string, binding: string): string =>
  topicPath(topic, `/bindings/${encodeURIComponent(binding)}`)

export const subscriptionPath = (id: string, rest = ''): string => `/v1/subscriptions/${encodeURIComponent(id)}${rest}`

export const schedulePath = (name: string, rest = ''): string => `/v1/schedules/${encodeURIComponent(name)}${rest}`
export const taskPath = (id: string): string => `/v1/tasks/${encodeURIComponent(id)}`

/** A body of JSON. */
export const jsonBody = (value: unknown): { body: string; type: string } => ({
  body: JSON.stringify(value),
  type: 'application/json',
})

/** Every item of a list, page by page. */
export async function everyPage<T>(
  client: Client,
  path: string,
  query: Record<string, string | undefined> = {},
): Promise<T[]> {
  const found: T[] = []
  let cursor: string | undefined
  do {
    const page: { data: T[]; next_cursor: string | null } = await client.json('GET', path, {
      query: { ...query, cursor },
    })
    found.push(...page.data)
    cursor = page.next_cursor ?? undefined
  } while (cursor)
  return found
}

/** fetch gives a cause when the network failed, and none when it was asked for something impossible. */
function unreached(base: string, error: unknown): CliError {
  if (!(error instanceof Error) || error.cause === undefined)
    return new CliError(2, error instanceof Error ? error.message : String(error))
  const { cause } = error
  const code = cause instanceof Error && 'code' in cause ? ` (${cause.code})` : ''
  return new CliError(
    3,
    `Could not reach ${base}${code}: is a gateway running there? Start one with npm start, or name another with --url.`,
  )
}

async function refused(answer: Response): Promise<CliError> {
  const problem = (await answer.json().catch(() => ({}))) as Problem
  const errors = problem.errors ?? []
  const fields = errors.length > 1 ? errors.map((each) => `\n  ${each.pointer}: ${each.detail}`).join('') : ''
  const hint = answer.status === 401 ? '\nGive a key with --key, POSTERN_KEY or POSTERN_ROOT_KEY.' : ''
  const code = problem.code ? ` ${problem.code}` : ''
  const text = problem.detail ?? problem.title ?? answer.statusText
  return new CliError(1, `${answer.status}${code}: ${text}${fields}${hint}`, answer.status)
}
