/** The API's description and a page to read it with. Works offline: everything is served from the installed package. */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createRoute, z } from '@hono/zod-openapi'
import { BrokerError } from '../model/index.ts'
import { type Answer, json } from './answer.ts'
import { type Endpoint, endpoint } from './endpoint.ts'
import { problems } from './route.ts'

const tags = ['operations']

/** Swagger UI sets style attributes while it draws; nothing else may come from anywhere but here. */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "font-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')
const cached = { 'Cache-Control': 'public, max-age=86400' }

/** Relative, so that it also works behind a proxy that adds a prefix. */
const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Postern API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
`
const start = `window.ui = SwaggerUIBundle({ url: 'openapi.json', dom_id: '#swagger-ui', deepLinking: true, validatorUrl: null })
`

const types = {
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'favicon-32x32.png': 'image/png',
  'start.js': 'text/javascript; charset=utf-8',
} as const

const fileOf = (description: string, type: string) => ({
  description,
  content: { [type]: { schema: { type: 'string' as const } } },
})

const pageRoute = createRoute({
  method: 'get',
  path: '/docs',
  operationId: 'docs',
  summary: 'This description, to read and try in a browser',
  tags,
  responses: { 200: fileOf('The page', 'text/html'), ...problems(403) },
})

const page = endpoint(pageRoute, 'nothing', async (): Promise<Answer<200>> => file(html, 'text/html; charset=utf-8'))

const assetRoute = createRoute({
  method: 'get',
  path: '/docs/{file}',
  operationId: 'docsFile',
  summary: 'What the page is made of',
  tags,
  request: { params: z.object({ file: z.string() }) },
  responses: { 200: fileOf('The file', '*/*'), ...problems(403, 404) },
})

const asset = endpoint(assetRoute, 'nothing', async ({ param }) => {
  const name = param('file')
  if (!isAsset(name)) throw new BrokerError('not_found', 'There is nothing at this path.')
  if (name === 'start.js') return file(start, types[name])
  const path = createRequire(import.meta.url).resolve(`swagger-ui-dist/${name}`)
  return file(await readFile(path), types[name])
})

const isAsset = (name: string): name is keyof typeof types => Object.hasOwn(types, name)

const file = (body: string | Buffer, type: string): Answer<200> => ({
  status: 200,
  body,
  headers: { 'Content-Type': type, 'Content-Security-Policy': policy, ...cached },
})

const openApiRoute = createRoute({
  method: 'get',
  path: '/openapi.json',
  operationId: 'openapi',
  summary: 'This description, as OpenAPI 3.1',
  tags,
  responses: {
    200: { description: 'The description', content: { 'application/json': { schema: { type: 'object' } } } },
    ...problems(403),
  },
})

/** `document` is worked out when it is first asked for. */
export function docsEndpoints(document: () => object): readonly Endpoint[] {
  const openApi = endpoint(openApiRoute, 'nothing', async () => json(200, document()))
  return [page, asset, openApi]
}
