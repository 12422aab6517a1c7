/** The OpenAPI 3.1 description, made from the same routes that are served. The same routes always print the same text. */
import { OpenAPIHono } from '@hono/zod-openapi'
import { stringify } from 'yaml'
import type { Endpoint } from './endpoint.ts'

const intro =
  'A message queue over HTTP. Durations are seconds or text such as `500ms 30s 5m 2h 7d`, and are answered as text; times are RFC 3339 in UTC. ' +
  'Errors are `application/problem+json` (RFC 9457) with a `code`; unknown fields and parameters are errors, and so is a body where none is taken. ' +
  'Every answer carries `Postern-Request-Id`, and so does every log line about it.'

export function openApiDocument(endpoints: readonly Endpoint[]): object {
  const app = new OpenAPIHono()
  for (const { route } of endpoints) app.openAPIRegistry.registerPath(route)
  app.openAPIRegistry.registerComponent('securitySchemes', 'apiKey', { type: 'http', scheme: 'bearer' })
  return sorted(
    app.getOpenAPI31Document({
      openapi: '3.1.0',
      info: {
        title: 'Postern',
        version: '1.0.0',
        description: intro,
        license: { name: 'MIT', url: 'https://spdx.org/licenses/MIT.html' },
      },
      servers: [{ url: '/' }],
    }),
  ) as object
}

export const printYaml = (document: object): string =>
  `# Printed by "npm run openapi" from the routes; do not edit.\n${stringify(document, { aliasDuplicateObjects: false, lineWidth: 110 })}`

/** Members by name, so that the order of declarations does not show. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  const members = Object.entries(value).filter(([, member]) => member !== undefined)
  return Object.fromEntries(members.sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, member]) => [key, sorted(member)]))
}
