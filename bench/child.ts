/** Processes that the benchmark forks: each says where it listens, answers questions, and ends with its parent, however that ends. */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export type Child = {
  pid: number
  url: string
  /** Asks, and waits for the answer; one question at a time. */
  ask<T>(question: unknown): Promise<T>
  stop(): Promise<void>
}

const killAfterMs = 10_000

/** `file`: beside this one; its first message is its address, each further one an answer. */
export async function startChild(
  file: string,
  words: readonly string[] = [],
  environment: Record<string, string> = {},
): Promise<Child> {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), words, {
    execArgv: [...process.execArgv, '--expose-gc'],
    env: { ...process.env, ...environment },
    serialization: 'advanced',
  })
  const next = (): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const gone = () => reject(new Error(`${file} has gone`))
      child.once('exit', gone)
      child.once('message', (answer) => {
        child.off('exit', gone)
        resolve(answer)
      })
    })
  const url = (await next()) as string
  return {
    pid: child.pid ?? 0,
    url,
    async ask<T>(question: unknown) {
      const answer = next()
      child.send(question as string)
      return (await answer) as T
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const gone = new Promise((resolve) => child.once('exit', resolve))
      const killing = setTimeout(() => child.kill('SIGKILL'), killAfterMs)
      if (child.connected) child.disconnect()
      await gone
      clearTimeout(killing)
    },
  }
}

/** The child's side. One whose answer fails goes, and its parent hears that. */
export function serveParent(url: string, answer: (question: unknown) => unknown, stop: () => Promise<unknown>): void {
  process.on('message', async (question) => process.send?.(await answer(question)))
  process.once('disconnect', () => void stop().finally(() => process.exit(0)))
  // Ctrl-C reaches every process of the terminal; the parent stops this one when it needs it no more.
  process.on('SIGINT', () => {})
  process.send?.(url)
}

export type Memory = { rss: number; heapUsed: number; external: number }

/** After collecting what can be collected. */
export function memory(): Memory {
  for (let n = 0; n < 3; n++) globalThis.gc?.()
  const { rss, heapUsed, external } = process.memoryUsage()
  return { rss, heapUsed, external }
}
