/** A webhook endpoint on loopback: keeps what came, answers as it is told, and counts how many came at once. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type Hit = {
  path: string
  headers: Record<string, string>
  body: Buffer
  atMs: number
}

export type Sink = {
  url: string
  hits: Hit[]
  /** The most requests that were under way at once. */
  most: number
  /** What to answer; by default 200. May wait. */
  answer(hit: Hit, response: ServerResponse): void | Promise<void>
  /** Bodies in the order of arrival. */
  bodies(): string[]
  close(): Promise<void>
}

export async function startSink(answer?: Sink['answer']): Promise<Sink> {
  let underWay = 0
  const server: Server = createServer((request, response) => void serve(request, response))

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    underWay++
    sink.most = Math.max(sink.most, underWay)
    response.once('close', () => underWay--)
    const parts: Buffer[] = []
    for await (const part of request) parts.push(part as Buffer)
    const hit = {
      path: request.url ?? '',
      headers: request.headers as Record<string, string>,
      body: Buffer.concat(parts),
      atMs: performance.now(),
    }
    sink.hits.push(hit)
    await sink.answer(hit, response)
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const sink: Sink = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    hits: [],
    most: 0,
    answer: answer ?? ((_hit, response) => void response.writeHead(200).end('ok')),
    bodies: () => sink.hits.map((hit) => hit.body.toString()),
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return sink
}

export const status =
  (code: number, headers: Record<string, string> = {}): Sink['answer'] =>
  (_hit, response) =>
    void response.writeHead(code, headers).end()

export const slowly =
  (ms: number): Sink['answer'] =>
  (_hit, response) =>
    void setTimeout(() => response.writeHead(200).end(), ms)
