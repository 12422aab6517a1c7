/**
 * Whether an answer has reached its client, as far as whoever sends can know. It has not when the connection broke before all of it was
 * handed to the network; nor when the connection is reset right after, for that is what the machine of a client who has gone says to what
 * still comes for it (RFC 9293, 3.5.2).
 */
import type { Socket } from 'node:net'
import { monotonicMs } from '../base/index.ts'
import type { Exchange } from './exchange.ts'

/** Longer than a round trip; a reset that comes later may be anybody's, a proxy's that tidies up for example. */
const resetMs = 1_000

type Sent = { atMs: number; lost: () => void }

/** Of each connection the latest answer that matters. */
const lastSent = new WeakMap<Socket, Sent>()

/** Calls `lost`, at most once, when the answer to this request has not reached its client. */
export function ifLost({ outgoing }: Exchange, lost: () => void): void {
  const socket = outgoing?.socket
  if (!outgoing || !socket) return
  let isHandedOver = false
  // It also comes, a moment late, for an answer of which the rest was thrown away.
  outgoing.once('finish', () => {
    isHandedOver = !socket.destroyed
  })
  outgoing.once('close', () => {
    if (isHandedOver) remember(socket, lost)
    else lost()
  })
}

/** Who asks for more has the answer before. */
export function hasAsked(socket: Socket): void {
  const sent = lastSent.get(socket)
  if (sent) sent.atMs = Number.NEGATIVE_INFINITY
}

function remember(socket: Socket, lost: () => void): void {
  const known = lastSent.get(socket)
  if (known) {
    known.atMs = monotonicMs()
    known.lost = lost
    return
  }
  const sent = { atMs: monotonicMs(), lost }
  const isRecent = (): boolean => monotonicMs() - sent.atMs < resetMs
  lastSent.set(socket, sent)
  // Its end comes first, whether the client had gone before the answer came or after; nothing, sent now, fails when there was a reset.
  socket.prependOnceListener('end', () => {
    if (isRecent()) socket.write('')
  })
  socket.once('close', (hadError) => {
    if (hadError && isRecent()) sent.lost()
  })
}
