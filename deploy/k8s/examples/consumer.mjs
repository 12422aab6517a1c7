// Takes orders one by one until it is told to stop, and finishes the one it has. Nothing but Node.js is needed.
import { setTimeout } from 'node:timers/promises'

const { POSTERN_URL, POSTERN_KEY, QUEUE } = process.env
const stopped = new AbortController()
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => stopped.abort())

const call = (method, path, options = {}) =>
  fetch(`${POSTERN_URL}/v1${path}`, { method, headers: { Authorization: `Bearer ${POSTERN_KEY}` }, ...options })

/** Waits for the next message; a poll that is broken off leaves nothing leased. */
async function next() {
  const answer = await call('POST', `/queues/${QUEUE}/receive?wait=20s`, { signal: stopped.signal })
  if (answer.ok) return (await answer.json()).messages[0]
  await answer.body?.cancel()
  if (answer.status < 500 && answer.status !== 429) throw new Error(`receive was refused: ${answer.status}`)
  throw Object.assign(new Error('not now'), { retryMs: Number(answer.headers.get('retry-after') ?? 1) * 1000 })
}

/** Delivery is at least once: work that must not be done twice asks whether it has been done. */
async function work(message) {
  const order = JSON.parse(message.body)
  console.log('order', order.id, 'attempt', message.attempt)
}

/** Until it is through, while the lease lasts. An answer of 409 means that somebody else has the message by now. */
async function settle(method, path) {
  for (let tries = 0; tries < 5; tries++) {
    const answer = await call(method, path, { signal: AbortSignal.timeout(10_000) }).catch(() => null)
    await answer?.body?.cancel()
    if (answer && answer.status < 500) return
    await setTimeout(500)
  }
}

while (!stopped.signal.aborted) {
  try {
    const message = await next()
    if (!message) continue
    const lease = `/leases/${message.receipt}`
    await work(message).then(
      () => settle('DELETE', lease),
      (error) => {
        console.error('failed', message.id, error.message)
        // Again after the queue's backoff; after max_attempts it is a dead letter.
        return settle('POST', `${lease}/nack`)
      },
    )
  } catch (error) {
    if (stopped.signal.aborted) break
    if (error.message.startsWith('receive was refused')) throw error
    await setTimeout(error.retryMs ?? 1000)
  }
}
console.log('stopped')
