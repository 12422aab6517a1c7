/** What no endpoint answers: an unknown path is 404, a known one with another method 405 that names those it has. */
import type { Hono } from 'hono'
import { type Answer, empty } from './answer.ts'
import type { Endpoint } from './endpoint.ts'
import type { HttpEnv } from './exchange.ts'
import { problemAnswer, statusOf } from './problem.ts'
import { checkPath } from './query.ts'

export function unknownEndpoint(app: Hono<HttpEnv>, endpoints: readonly Endpoint[]): Endpoint {
  const methods = [...new Set(endpoints.map(({ route }) => route.method.toUpperCase()))]

  function allowed(path: string): string[] {
    const own = methods.filter((method) => app.router.match(method, path)[0].length > 0)
    if (own.includes('GET')) own.push('HEAD')
    return own.length > 0 ? [...own, 'OPTIONS'].sort() : []
  }

  return {
    route: { method: 'get', path: '*', responses: {} },
    needs: 'nothing',
    async handle({ path, method, requestId }): Promise<Answer> {
      checkPath(path)
      const allow = allowed(path)
      if (allow.length === 0) return refusal('not_found', 'There is nothing at this path.', requestId)
      const headers = { Allow: allow.join(', ') }
      if (method === 'OPTIONS') return { ...empty(), headers }
      return refusal('method_not_allowed', `This path takes ${allow.join(', ')}.`, requestId, headers)
    },
  }
}

function refusal(
  code: 'not_found' | 'method_not_allowed',
  detail: string,
  requestId: string,
  headers: Record<string, string> = {},
): Answer {
  const title = code === 'not_found' ? 'Not found' : 'Method not allowed'
  return problemAnswer({ status: statusOf(code), title, code, detail, errors: [] }, requestId, headers)
}
