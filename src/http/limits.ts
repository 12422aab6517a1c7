/**
 * How many requests are taken: of each API key, and by this gateway in all. Said in the fields of
 * draft-ietf-httpapi-ratelimit-headers-10 (RateLimit-Policy and RateLimit, lists of structured fields).
 */
import { limiter, monotonicMs, type Quota } from '../base/index.ts'
import { BrokerError, type Principal, type Rate } from '../model/index.ts'
import type { Needs } from './endpoint.ts'
import type { Exchange } from './exchange.ts'

export type Limits = {
  /** Counts one request, and says in `fields`, for the answer, what is left. Throws rate_limited. */
  admit(needs: Needs, principal: Principal | null, fields: Record<string, string>): void
  /**
   * Counts a request that is refused, or is going to be unless its key is found, against the address it comes from; says in its quota what
   * is left. Throws rate_limited. What it returns takes it back.
   */
  stranger(exchange: Exchange): () => void
}

export type LimitOptions = {
  /** Of all requests to this gateway; null: any number. */
  rateLimit: Rate | null
  /** Of an API key that has none of its own. The root key, and whoever needs no key, has no limit. */
  rateLimitPerKey: Rate | null
  /** Of requests without a valid key, from each address; null: any number. */
  rateLimitRefused: Rate | null
}

/** Keys whose requests are counted at the same time; those seen last are kept. */
const mostKeys = 10_000
const mostAddresses = 10_000

export function createLimits({ rateLimit, rateLimitPerKey, rateLimitRefused }: LimitOptions): Limits {
  const keys = limiter(mostKeys)
  const gateway = limiter(1)
  const strangers = limiter(mostAddresses)

  return {
    admit(needs, principal, fields) {
      // Probes must be answered when nothing else is, and the description costs nothing.
      if (needs === 'nothing' || needs === 'anyone') return
      const rate = principal === null || principal.root ? null : (principal.rate ?? rateLimitPerKey)
      // First the key's: what is refused by it takes nothing from the others.
      if (rate && principal) {
        const quota = keys.take(principal.id, rate, monotonicMs())
        say(fields, 'key', rate, quota)
        if (!quota.allowed) throw tooMany('This API key sends too many requests', rate, quota)
      }
      if (rateLimit) {
        const quota = gateway.take('', rateLimit, monotonicMs())
        say(fields, 'gateway', rateLimit, quota)
        if (!quota.allowed) throw tooMany('This gateway gets too many requests', rateLimit, quota)
      }
    },
    stranger({ incoming, quota: fields }) {
      if (!rateLimitRefused) return () => {}
      const rate = rateLimitRefused
      const address = networkOf(incoming?.socket.remoteAddress ?? '')
      const quota = strangers.take(address, rate, monotonicMs())
      const before = { ...fields }
      say(fields, 'refused', rate, quota)
      if (!quota.allowed) throw tooMany('Too many requests without a valid key come from this address', rate, quota)
      return () => {
        strangers.give(address, rate)
        for (const name of fieldNames) delete fields[name]
        Object.assign(fields, before)
      }
    },
  }
}

/** Of an IPv6 address the /64, which is what one customer of a provider has at the least. */
export function networkOf(address: string): string {
  if (!address.includes(':') || address.includes('.')) return address
  const [head = '', tail] = (address.split('%')[0] ?? '').split('::')
  const words = head === '' ? [] : head.split(':')
  const after = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : 8 - words.length - after.length
  return [...words, ...Array.from({ length: zeros }, () => '0'), ...after].slice(0, 4).join(':')
}

const fieldNames = ['RateLimit-Policy', 'RateLimit'] as const
const seconds = (ms: number): number => Math.max(1, Math.ceil(ms / 1000))

/** `t`: until what may come at once is whole again. */
function say(fields: Record<string, string>, name: string, { count, perMs }: Rate, quota: Quota): void {
  append(fields, 'RateLimit-Policy', `"${name}";q=${count};w=${perMs / 1000}`)
  append(fields, 'RateLimit', `"${name}";r=${quota.remaining};t=${seconds(quota.wholeMs)}`)
}

function append(fields: Record<string, string>, name: string, item: string): void {
  fields[name] = fields[name] === undefined ? item : `${fields[name]}, ${item}`
}

const tooMany = (what: string, { count, perMs }: Rate, { waitMs }: Quota): BrokerError =>
  new BrokerError(
    'rate_limited',
    `${what}: at most ${count} in ${perMs / 1000} s, evenly. Retry after ${seconds(waitMs)} s.`,
    { retryAfterS: waitMs / 1000 },
  )
