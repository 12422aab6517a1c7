// Sends an order every second until it is told to stop. Nothing but Node.js is needed.
import { setTimeout } from 'node:timers/promises'

const { POSTERN_URL, POSTERN_KEY, QUEUE, EVERY_MS = '1000' } = process.env
const stopped = new AbortController()
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => stopped.abort())

const pause = (ms) => setTimeout(ms, undefined, { signal: stopped.signal }).catch(() => {})

/** Sends until it is certain that the message is stored: the key makes a repeated send harmless. */
async function send(order) {
  const key = `order-${order.id}`
  for (let waitMs = 200; ; waitMs = Math.min(2 * waitMs, 5000)) {
    const answer = await fetch(`${POSTERN_URL}/v1/queues/${QUEUE}/messages`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${POSTERN_KEY}`, 'Content-Type': 'application/json', 'Idempotency-Key': key },
      body: JSON.stringify(order),
      signal: AbortSignal.timeout(15_000),
    }).catch(() => null)
    if (answer?.ok) return (await answer.json()).id
    // What the gateway calls wrong stays wrong; what it cannot do now, and what got lost, is tried again.
    if (answer && answer.status < 500 && answer.status !== 429)
      throw new Error(`${answer.status} ${await answer.text()}`)
    if (stopped.signal.aborted) throw new Error(`order ${order.id} may not have been stored`)
    await pause(Number(answer?.headers.get('retry-after') ?? 0) * 1000 || waitMs)
  }
}

const run = `${Date.now()}`
for (let n = 1; !stopped.signal.aborted; n++) {
  console.log('sent', await send({ id: `${run}-${n}`, total: Math.round(Math.random() * 10_000) / 100 }))
  await pause(Number(EVERY_MS))
}
