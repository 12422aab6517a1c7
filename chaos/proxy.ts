/** A TCP proxy on loopback that can break what passes through it: cut it, hold it back as a half-open connection does, slow it down. */
import { connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export type Link = {
  port: number
  /** Ends every connection with a reset. */
  cut(): void
  /** Nothing passes, nothing ends, and nobody is told; what was held back goes on afterwards. */
  stall(on: boolean): void
  /** Each piece of data arrives so much later. */
  slow(ms: number): void
  close(): Promise<void>
}

type Pair = { near: Socket; far: Socket }

/** A new connection goes to the next of the ports that `targets` names; a port that refuses is passed over. */
export async function startProxy(targets: () => number[]): Promise<Link> {
  const pairs = new Set<Pair>()
  const state = { stalled: false, delayMs: 0 }
  let turn = 0
  const server = createServer({ noDelay: true }, (near) => {
    const ports = targets()
    turn++
    void dial(ports.map((_, at) => ports[(at + turn) % ports.length] as number)).then((far) => {
      if (!far) return near.resetAndDestroy()
      const pair = { near, far }
      pairs.add(pair)
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const)
        pass(from, to, state)
      near.on('close', () => pairs.delete(pair))
      if (state.stalled) hold(pair)
    })
    near.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const cut = (): void => {
    for (const { near, far } of pairs) {
      near.resetAndDestroy()
      far.resetAndDestroy()
    }
  }
  return {
    port: typeof address === 'object' && address ? address.port : 0,
    cut,
    stall(on) {
      state.stalled = on
      for (const pair of pairs) if (on) hold(pair)
      if (!on) for (const { near, far } of pairs) for (const one of [near, far]) one.resume()
    },
    slow(ms) {
      state.delayMs = ms
    },
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      cut()
      await closed
    },
  }
}

function hold({ near, far }: Pair): void {
  near.pause()
  far.pause()
}

async function dial(ports: readonly number[]): Promise<Socket | null> {
  for (const port of ports) {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    const open = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
    })
    if (open) return socket
  }
  return null
}

/** In order, whatever happens to the delay meanwhile. */
function pass(from: Socket, to: Socket, state: { stalled: boolean; delayMs: number }): void {
  let last: Promise<unknown> | null = null
  const forward = (action: () => void): void => {
    if (state.delayMs > 0 || last !== null) {
      const mine = Promise.all([last, sleep(state.delayMs)]).then(() => {
        if (last === mine) last = null
        action()
      })
      last = mine
    } else action()
  }
  from.on('data', (part) =>
    forward(() => {
      if (!to.writable || to.write(part)) return
      from.pause()
      to.once('drain', () => state.stalled || from.resume())
    }),
  )
  from.on('end', () => forward(() => to.end()))
  from.on('error', () => to.resetAndDestroy())
  from.on('close', () => forward(() => to.destroySoon()))
}
