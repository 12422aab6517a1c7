/** Who holds an API key. Answers are remembered for less than a second, and forgotten when a key is revoked. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import type { ApiKey, NewKey, Principal } from '../model/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'

const rememberMs = 800
/** How long a key is known to have been valid here: its lookups are nobody's guesses. */
const provenMs = 600_000
const secretPattern = /^postern_([0-9a-f]{16})_[A-Za-z0-9_-]{43}$/
const hashOf = (secret: string): Buffer => createHash('sha256').update(secret).digest()

export type Access = {
  /** `guessing`: called before anything is looked up for a secret that was not valid here lately; it may throw. */
  authenticate(secret: string, guessing?: () => void): Promise<Principal | null>
  create(key: NewKey): Promise<ApiKey & { secret: string }>
  forget(): void
}

export function createAccess(db: Database): Access {
  // By hash, so that no secret is kept in memory.
  const known = new LRUCache<string, { principal: Principal }>({ max: 10_000, ttl: rememberMs })

  const proven = new LRUCache<string, true>({ max: 10_000, ttl: provenMs })
  /** Whoever comes with a key that is just being looked up waits for that. */
  const looking = new Map<string, Promise<Principal | null>>()

  async function authenticate(secret: string, guessing?: () => void): Promise<Principal | null> {
    const id = secretPattern.exec(secret)?.[1]
    if (id === undefined) {
      guessing?.()
      return null
    }
    const hash = hashOf(secret)
    const name = hash.toString('base64')
    const remembered = known.get(name)
    if (remembered) return remembered.principal
    if (!proven.has(name)) guessing?.()
    const found = looking.get(name) ?? lookUp(id, hash, name).finally(() => looking.delete(name))
    looking.set(name, found)
    return await found
  }

  async function lookUp(id: string, hash: Buffer, name: string): Promise<Principal | null> {
    const key = await store.findKey(db, id)
    if (!key || key.hash.length !== hash.length || !timingSafeEqual(key.hash, hash)) {
      proven.delete(name)
      return null
    }
    const principal: Principal = { id: key.id, root: false, scopes: key.scopes, rate: key.rate }
    known.set(name, { principal })
    proven.set(name, true)
    return principal
  }

  return {
    authenticate,
    async create(key) {
      const id = randomBytes(8).toString('hex')
      const secret = `postern_${id}_${randomBytes(32).toString('base64url')}`
      return { ...(await store.insertKey(db, { id, hash: hashOf(secret), ...key })), secret }
    },
    forget: () => known.clear(),
  }
}
