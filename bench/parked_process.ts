/** Clients that poll for what never comes, each on a connection of its own: words are the gateway's address, how many, over how many queues. */
import { Agent, request } from 'undici'
import { serveParent } from './child.ts'

const [url = '', polls = '1', queues = '1'] = process.argv.slice(2)
const dispatcher = new Agent({
  connections: Number(polls),
  pipelining: 1,
  headersTimeout: 0,
  connect: { timeout: 60_000 },
})
/** Not all in one moment. */
const dialling = 200
let parked = 0
let over = false

serveParent(
  url,
  () => parked,
  async () => {
    over = true
  },
)

/** One after the other in each of `dialling` groups are dialled; from then on each polls by itself. */
for (let first = 0; first < Number(polls) && !over; first += dialling) {
  for (let n = first; n < Math.min(first + dialling, Number(polls)); n++) void poll(n)
  await new Promise((resolve) => setTimeout(resolve, 100))
}

async function poll(number: number): Promise<void> {
  const path = `${url}/v1/queues/parked-${number % Number(queues)}/receive?wait=55s`
  for (let first = true; !over; first = false) {
    try {
      const answering = request(path, { method: 'POST', dispatcher })
      // It is there when it has been sent; the gateway is given its time afterwards.
      if (first) parked++
      await (await answering).body.dump()
    } catch {
      if (over) return
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
  }
}
