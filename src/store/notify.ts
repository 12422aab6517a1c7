/** What gateways tell each other, over LISTEN/NOTIFY. Always hints: what is lost costs time, never a message. */
import { type ConnectOptions, type Database, open, texts } from './client.ts'

const channel = 'postern'

/** From a connection of its own transaction: inside a send it would halve the rate of sending. */
export async function notify(db: Database, payloads: readonly string[]): Promise<void> {
  await db.hot(`/* notify */ select pg_notify('${channel}', p) from unnest($1::text[]) p`, [texts(payloads)])
}

/** Postgres refuses payloads of 8000 bytes and more. */
export const maxPayload = 7900

export type Listening = { close(): Promise<void> }

/**
 * Calls `heard` for each payload, own ones too, and `listening` whenever a connection begins to listen: what was said
 * before is lost. Does not notice a connection that has died silently; that is the caller's heartbeat.
 */
export function listen(
  options: Pick<ConnectOptions, 'databaseUrl' | 'prepare'>,
  on: { heard(payload: string): void; listening(): void; failed(error: unknown): void },
): Listening {
  const sql = open(options, 1, {})
  sql.listen(channel, on.heard, on.listening).catch(on.failed)
  return { close: () => sql.end({ timeout: 1 }) }
}
