/**
 * A webhook endpoint in a process of its own: answers 200 at once, counts, and notes when requests with a number came. Says so
 * to its parent when asked, and ends with it.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { numberHeader, type SinkAnswer, sharedClockMs } from './sink.ts'

let count = 0
let arrivals: [number, number][] = []
const server = createServer((request, response) => {
  count++
  const number = request.headers[numberHeader]
  if (number !== undefined) arrivals.push([Number(number), sharedClockMs()])
  request.resume().once('end', () => response.end('ok'))
})
server.keepAliveTimeout = 60_000

const say = (answer: SinkAnswer): void => void process.send?.(answer)
process.on('message', (wanted) => {
  say({ count, atMs: sharedClockMs(), arrivals: wanted === 'arrivals' ? arrivals : [] })
  if (wanted === 'arrivals') arrivals = []
})
process.once('disconnect', () => process.exit(0))
server.listen(0, '127.0.0.1', () =>
  say({ count: (server.address() as AddressInfo).port, atMs: sharedClockMs(), arrivals: [] }),
)
