/** What every command needs: the gateway to talk to, and how to print. */
import type { Command } from 'commander'
import { type Client, createClient } from './client.ts'
import { type Output, output } from './output.ts'

export type Context = (command: Command) => { client: Client; out: Output; json: boolean }

type Shared = { url?: string; key?: string; json?: boolean }

/** Options before the environment, the environment before the defaults. Throws CliError for a URL that is none. */
export function createContext(environment: Record<string, string | undefined>): Context {
  return (command) => {
    const { url, key, json = false } = command.optsWithGlobals<Shared>()
    const client = createClient(
      url || environment.POSTERN_URL || 'http://127.0.0.1:7070',
      key || environment.POSTERN_KEY || environment.POSTERN_ROOT_KEY,
    )
    return { client, json, out: output(json) }
  }
}
