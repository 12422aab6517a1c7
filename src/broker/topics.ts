/**
 * Where a topic's messages go. Routes are kept with the version that they were read at; the statement that publishes checks the
 * version, so a change applies to the next publish on every gateway, and what is kept here can only cost time.
 */
import { batch } from '../base/index.ts'
import {
  BrokerError,
  type CompiledFilter,
  compileFilter,
  type NewMessage,
  parsedJson,
  routeTable,
  type Topic,
} from '../model/index.ts'
import type { Database, RouteRow } from '../store/index.ts'
import * as store from '../store/index.ts'
import { gathering } from './gathering.ts'

type Route = RouteRow & { compiled: CompiledFilter | null }

export type TopicRoutes = {
  topic: Topic
  version: number
  /** Bindings first, each group by name. */
  match(routingKey: string, message: Pick<NewMessage, 'headers' | 'body'>): Route[]
}

export type Topics = {
  /** Throws topic_not_found. `fresh`: from the database, whatever is kept. */
  routes(name: string, fresh: boolean): Promise<TopicRoutes>
}

/** So that a database with a million topics does not fill a gateway. */
const mostKept = 10_000

export function createTopics(db: Database): Topics {
  const kept = new Map<string, TopicRoutes>()

  /** A load that begins after the caller has asked is fresh enough for all who wait for it. */
  const load = batch<string, TopicRoutes>(
    async (names) => {
      const loaded = new Map<string, TopicRoutes | Error>()
      for (const name of new Set(names)) loaded.set(name, await loadOne(name).catch((error: Error) => error))
      return names.map((name) => loaded.get(name) ?? noTopic(name))
    },
    {
      lanes: 2,
      maxWeight: 1000,
      weigh: () => 1,
      maxWaiting: 100_000,
      ...gathering('Too many publishes wait for their topic to be looked up.'),
      harmless: () => false,
    },
  )

  async function loadOne(name: string): Promise<TopicRoutes> {
    const found = await store.routesOf(db, name)
    kept.delete(name)
    if (!found) throw noTopic(name)
    const routes = found.routes.map((row): Route => ({ ...row, compiled: row.filter && compileFilter(row.filter) }))
    const table = routeTable(routes.map((value) => ({ pattern: value.pattern, value })))
    const loaded = {
      topic: found.topic,
      version: found.version,
      match: (key: string, message: Pick<NewMessage, 'headers' | 'body'>) => filtered(table.match(key), message),
    }
    if (kept.size >= mostKept) kept.clear()
    kept.set(name, loaded)
    return loaded
  }

  return {
    async routes(name, fresh) {
      return (fresh ? undefined : kept.get(name)) ?? (await load(name))
    },
  }
}

/** A body is parsed at most once, and only when a filter asks about it. */
function filtered(routes: readonly Route[], { headers, body }: Pick<NewMessage, 'headers' | 'body'>): Route[] {
  let parsed: { value: unknown } | undefined
  return routes.filter(({ compiled }) => {
    if (!compiled) return true
    if (compiled.usesBody) parsed ??= { value: parsedJson(body) }
    return compiled.matches({ headers: headers ?? {}, body: parsed?.value })
  })
}

export const noTopic = (name: string): BrokerError =>
  new BrokerError('topic_not_found', `There is no topic ${name}: create it with PUT /v1/topics/${name}.`)
