/** What a handler answers with, before it becomes a Response. A status that its route does not declare does not compile. */

export type Answer<Status extends number = number> = {
  status: Status
  body: string | Buffer | null
  headers: Record<string, string>
}

/** A value as JSON. `JSON.stringify` runs here, so the value must be shallow: bodies are text by now. */
export function json<Status extends number>(
  status: Status,
  value: unknown,
  headers: Record<string, string> = {},
): Answer<Status> {
  return { status, body: JSON.stringify(value), headers: { 'Content-Type': 'application/json', ...headers } }
}

export const empty = (): Answer<204> => ({ status: 204, body: null, headers: {} })
