/** Endpoints of every kind for one sender, on raw sockets too, and what came of an attempt. All are closed after each test. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net'
import { afterEach, expect } from 'vitest'
import {
  createSender,
  type Sender,
  type SenderOptions,
  type SendRequest,
  type SendResult,
} from '../../src/push/sender.ts'

export const opened: (() => void | Promise<void>)[] = []
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close()
})

export function sender(options: Partial<SenderOptions> = {}): Sender {
  const created = createSender({ allow: () => true, ...options })
  opened.push(() => created.close().catch(() => {}))
  return created
}

/** `talk` gets each connection. */
export async function rawServer(
  talk: (socket: Socket) => void,
  host = '127.0.0.1',
): Promise<{ port: number; sockets: Socket[] }> {
  const sockets: Socket[] = []
  const server = createTcpServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    talk(socket)
  })
  server.listen(0, host)
  await once(server, 'listening')
  opened.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { port: (server.address() as AddressInfo).port, sockets }
}

export const closed = (socket: Socket | undefined): Promise<void> =>
  new Promise((resolve) => {
    if (!socket || socket.destroyed) resolve()
    else socket.once('close', () => resolve())
  })

/** Answers each request, as soon as something of it is there, with these bytes. */
export const saying = (...parts: (string | Buffer)[]): Promise<{ port: number; sockets: Socket[] }> =>
  rawServer((socket) => {
    socket.on('data', () => {
      for (const part of parts) socket.write(part)
    })
  })

export async function httpServer(listener: RequestListener): Promise<{ port: number; connections(): number }> {
  let connections = 0
  const server = createServer(listener)
  server.on('connection', () => connections++)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  opened.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return { port: (server.address() as AddressInfo).port, connections: () => connections }
}

export const post = (to: Sender, url: string, changed: Partial<SendRequest> = {}): Promise<SendResult> =>
  to.send({
    url,
    headers: { 'content-type': 'application/json' },
    body: Buffer.from('{"a":1}'),
    timeoutMs: 5000,
    signal: new AbortController().signal,
    ...changed,
  })
export const local = (port: number): string => `http://127.0.0.1:${port}/`

export const text = async (request: IncomingMessage): Promise<string> => {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}
export const answered = (status: number, retryAfter: string | null = null) => ({ kind: 'answer', status, retryAfter })
export const failed = (code: string) => expect.objectContaining({ kind: 'failure', code })
