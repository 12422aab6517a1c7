/** A gateway waits for its database while it starts, also when that goes away between two steps. */
import { afterAll, expect, test, vi } from 'vitest'
import { createApp } from '../src/app.ts'
import { loadConfig } from '../src/config.ts'
import { BrokerError } from '../src/model/index.ts'
import { testDatabase } from './support/postgres.ts'

const away = vi.hoisted(() => ({ times: 0 }))

vi.mock('../src/store/keys.ts', async (original) => {
  const real = await original<typeof import('../src/store/keys.ts')>()
  const sharedSecret: typeof real.sharedSecret = async (db, name) => {
    if (away.times-- > 0) throw new BrokerError('unavailable', 'The database is not available.')
    return await real.sharedSecret(db, name)
  }
  return { ...real, sharedSecret }
})

const database = await testDatabase()
afterAll(() => database.drop())

test('the database goes away after the migration: the gateway waits for it', async () => {
  away.times = 1
  const events: string[] = []
  const log = { event: (event: string) => void events.push(event), line: () => {}, fatal: () => {} }
  const app = createApp(loadConfig({ DATABASE_URL: database.url, PORT: '0' }, { tty: false }), { log })
  const { url } = await app.start()
  expect((await fetch(`${url}/readyz`)).status).toBe(200)
  expect(events).toContain('waiting for postgres')
  await app.stop()
})
