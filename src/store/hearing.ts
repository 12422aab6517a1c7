/**
 * Notices that Postgres has fallen silent: stopped, frozen, or behind a network that swallows everything. Statements would hang one after
 * the other, each with the bodies of its callers; instead they are refused at once, until a probe is answered again.
 */
import { after, monotonicMs, sleep, type Timer } from '../base/index.ts'

export type Hearing = {
  /** A statement begins. */
  asked(): Asked
  silent(): boolean
  close(): void
}

export type Asked = {
  /** The server has said something to it, if only that it will not. */
  answered(): void
  /** It is over without an answer. */
  over(): void
}

type Options = {
  /** Resolves when the server answers, on a connection of its own and with a deadline. */
  probe(): Promise<unknown>
  /** Connections on which nothing more will be answered can go, with all that was written to them. */
  fellSilent(): void
}

/** A statement that takes so long, while no other is answered, is reason to ask whether anybody is there. */
const suspectMs = 2_000
const probeEveryMs = 500

export function createHearing({ probe, fellSilent }: Options): Hearing {
  const closed = new AbortController()
  let heardMs = Number.NEGATIVE_INFINITY
  let silent = false
  let probing = false

  async function suspect(begunMs: number): Promise<void> {
    // One statement that hangs while others are answered is not the server's silence.
    if (probing || heardMs >= begunMs) return
    probing = true
    while (!closed.signal.aborted) {
      const askedMs = monotonicMs()
      try {
        await probe()
        heardMs = monotonicMs()
      } catch {}
      if (heardMs >= askedMs) break
      if (!silent) {
        silent = true
        fellSilent()
      }
      await sleep(probeEveryMs, closed.signal)
    }
    silent = false
    probing = false
  }

  return {
    asked() {
      const begunMs = monotonicMs()
      const timer: Timer = after(suspectMs, () => void suspect(begunMs))
      return {
        answered() {
          heardMs = monotonicMs()
          timer.cancel()
        },
        over: () => timer.cancel(),
      }
    },
    silent: () => silent,
    close: () => closed.abort(),
  }
}
