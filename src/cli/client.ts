/** Talks to a running gateway; every refusal becomes an error that says what to do. */

export type Client = {
  /** Throws CliError. `body` is sent as it is. */
  call(
    method: string,
    path: string,
    options?: {
      query?: Record<string, string | undefined>
      body?: string | Buffer
      type?: string
      headers?: Record<string, string>
      signal?: AbortSignal
    },
  ): Promise<Response>
  json<T>(method: string, path: string, options?: Parameters<Client['call']>[2]): Promise<T>
}

/** Exit codes: 1 the gateway refused, 2 wrong usage, 3 no gateway there. */
export class CliError extends Error {
  readonly exitCode: 1 | 2 | 3
  constructor(exitCode: 1 | 2 | 3, message: string) {
    super(message)
    this.name = 'CliError'
    this.exitCode = exitCode
  }
}

type Problem = { title?: string; detail?: string; errors?: { pointer: string; detail: string }[] }

export function createClient(url: string, key: string | undefined): Client {
  async function call(...[method, path, options = {}]: Parameters<Client['call']>): Promise<Response> {
    const target = new URL(path, url)
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) target.searchParams.set(name, value)
    let answer: Response
    try {
      answer = await fetch(target, {
        method,
        headers: {
          ...(key ? { authorization: `Bearer ${key}` } : {}),
          ...(options.type ? { 'content-type': options.type } : {}),
          ...options.headers,
        },
        ...(options.body === undefined ? {} : { body: options.body }),
        ...(options.signal ? { signal: options.signal } : {}),
      })
    } catch (error) {
      if (options.signal?.aborted) throw error
      throw new CliError(
        3,
        `Could not reach ${url}: is a gateway running there? Start one with npm start, or name another with --url.`,
      )
    }
    if (answer.ok) return answer
    const problem = (await answer.json().catch(() => ({}))) as Problem
    const fields = (problem.errors ?? []).map((each) => `\n  ${each.pointer}: ${each.detail}`).join('')
    const hint = answer.status === 401 ? '\nGive a key with --key or POSTERN_KEY.' : ''
    throw new CliError(1, `${answer.status} ${problem.detail ?? problem.title ?? answer.statusText}${fields}${hint}`)
  }
  return { call, json: async <T>(...words: Parameters<Client['call']>) => (await (await call(...words)).json()) as T }
}

export const queuePath = (queue: string, rest = ''): string => `/v1/queues/${encodeURIComponent(queue)}${rest}`
