/**
 * Whether an answer has reached its client, as far as whoever sends can know for certain. It has not when the connection broke before all of it
 * was handed to the network. Nor when the client had closed its end and the answer is then answered by a reset, which is what the client's
 * machine says to what comes for somebody who has gone (RFC 9293, 3.5.2). A reset alone says nothing: the client may have read before.
 */
import type { Socket } from 'node:net'
import { monotonicMs } from '../base/index.ts'
import type { Exchange } from './exchange.ts'

/** Longer than a round trip. */
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
  lastSent.set(socket, sent)
  // Before the server closes its end too. Nothing, sent now, fails when there was a reset.
  socket.prependOnceListener('end', () => {
    if (monotonicMs() - sent.atMs >= resetMs) return
    socket.write('', (error) => {
      if (error) sent.lost()
    })
  })
}
