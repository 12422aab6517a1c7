/**
 * pg-boss at its documented best: `insert` for batches, `fetch` with `batchSize` and `complete` with an array of ids, which is what its
 * own workers do without their polling interval. Its pool has 10 connections (its default, and Postern's). Cron is off, which it
 * does not need here; maintenance is on, as it is by default. `priority: false` spares it the sort by a priority that nobody uses.
 */
import PgBoss from 'pg-boss'
import { body, sleep } from '../place.ts'
import { type Contender, inPieces, lineName } from './contender.ts'
import { turns } from './postern.ts'

const data = { body: body.toString() }
const daySeconds = 86_400
const emptyPauseMs = 1

export const pgBoss: Contender = {
  name: 'pg-boss',
  costs: {},
  async open(place, { queues }) {
    const database = await place.database(lineName())
    const boss = new PgBoss({ connectionString: database.url, max: 10, schedule: false })
    boss.on('error', (error) => console.error('pg-boss:', error.message))
    await boss.start()
    const names = Array.from({ length: queues }, (_, n) => `queue-${n}`)
    for (const name of names) await boss.createQueue(name, { name, expireInHours: 6 })
    const [first = ''] = names
    const nameOf = turns(names)
    return {
      databaseUrl: database.url,
      send: (count) => send(boss, nameOf(), count),
      async cycle(count) {
        const name = nameOf()
        await send(boss, name, count)
        const ids = await take(boss, name, count)
        if (ids.length > 0) await boss.complete(name, ids)
        return ids.length
      },
      async stand(kind, count) {
        await inPieces(count, 5000, 4, (piece) =>
          send(boss, first, piece, kind === 'delayed' ? { startAfter: tomorrow() } : {}),
        )
        if (kind === 'leased') for (let left = count; left > 0; ) left -= (await take(boss, first, 10_000)).length
      },
      purge: () => Promise.all(names.map((name) => boss.purgeQueue(name))),
      async close() {
        await boss.stop({ graceful: false, wait: true })
        await database.drop()
      },
    }
  },
}

async function send(boss: PgBoss, name: string, count: number, more: { startAfter?: string } = {}): Promise<number> {
  if (count === 1) await boss.send(name, data, more)
  else await boss.insert(Array.from({ length: count }, () => ({ name, data, ...more })))
  return count
}

/** Another caller may have taken what this one sent, but has then left as much. */
async function take(boss: PgBoss, name: string, count: number): Promise<string[]> {
  for (let tries = 0; tries < 1000; tries++) {
    const jobs = await boss.fetch(name, { batchSize: count, priority: false })
    if (jobs && jobs.length > 0) return jobs.map(({ id }) => id)
    await sleep(emptyPauseMs)
  }
  throw new Error(`pg-boss: ${name} stays empty`)
}

const tomorrow = (): string => new Date(Date.now() + daySeconds * 1000).toISOString()
