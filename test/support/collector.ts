/** A collector of traces on loopback: keeps the spans that came by OTLP over HTTP. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export type Collected = {
  traceId: string
  spanId: string
  parentSpanId: string | undefined
  name: string
  /** Of OTLP: 1 internal, 2 server, 3 client, 5 consumer. */
  kind: number
  failed: boolean
  attributes: Record<string, string | number | boolean>
  links: { traceId: string; spanId: string }[]
  resource: Record<string, string | number | boolean>
}

type Attribute = {
  key: string
  value: { stringValue?: string; intValue?: string | number; boolValue?: boolean; doubleValue?: number }
}
type Body = {
  resourceSpans: {
    resource: { attributes: Attribute[] }
    scopeSpans: {
      spans: (Omit<Collected, 'attributes' | 'failed' | 'resource'> & {
        attributes: Attribute[]
        status: { code?: number }
      })[]
    }[]
  }[]
}

export type Collector = { url: string; paths: string[]; spans: Collected[]; close(): Promise<void> }

export async function startCollector(): Promise<Collector> {
  const spans: Collected[] = []
  const paths: string[] = []
  const server = createServer(async (request, response) => {
    const parts: Buffer[] = []
    for await (const part of request) parts.push(part as Buffer)
    paths.push(request.url ?? '')
    spans.push(...spansFrom(JSON.parse(Buffer.concat(parts).toString()) as Body))
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    paths,
    spans,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

const spansFrom = ({ resourceSpans }: Body): Collected[] =>
  resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap((scope) =>
      scope.spans.map((span) => ({
        ...span,
        parentSpanId: span.parentSpanId || undefined,
        links: span.links ?? [],
        failed: span.status.code === 2,
        attributes: attributesFrom(span.attributes),
        resource: attributesFrom(resource.attributes),
      })),
    ),
  )

const attributesFrom = (list: Attribute[]): Collected['attributes'] =>
  Object.fromEntries(
    list.map(({ key, value }) => [
      key,
      value.stringValue ?? value.boolValue ?? value.doubleValue ?? Number(value.intValue),
    ]),
  )
