/** A Hono server that reads a body and stores nothing, in a process of its own. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import { Hono } from 'hono'
import { serveParent } from './child.ts'

const bare = new Hono().post('/', async (context) =>
  context.json({ bytes: (await context.req.arrayBuffer()).byteLength }, 201),
)
const server = createServer(getRequestListener(bare.fetch)).listen(0, '127.0.0.1')
await new Promise((resolve) => server.once('listening', resolve))
serveParent(
  `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
  () => null,
  async () => server.closeAllConnections(),
)
