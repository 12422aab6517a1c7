/**
 * Who may come in. With keys, every call needs one; without (open mode, loopback only) the danger is a web page in the
 * same machine's browser, so the Host must be a loopback name (DNS rebinding) and the Origin the gateway itself.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { Broker } from '../broker/index.ts'
import { BrokerError, type Principal, rootPrincipal } from '../model/index.ts'
import type { Needs } from './endpoint.ts'
import { type Exchange, header } from './exchange.ts'
import type { Limits } from './limits.ts'

export type Gate = {
  /** Throws forbidden when a browser was led here by somebody else's page. Lets everything pass when keys are needed. */
  checkOrigin(exchange: Exchange): void
  /** null: nobody in particular, where that is enough. Throws unauthenticated, and rate_limited instead to whoever is refused too often. */
  identify(exchange: Exchange, needs: Needs): Principal | null | Promise<Principal>
}

export type GateOptions = {
  broker: Pick<Broker, 'authenticate'>
  limits: Pick<Limits, 'stranger'>
  rootKey: string | null
  open: boolean
  host: string
}

const bearerPattern = /^bearer +(\S{1,512}) *$/i
const loopbackPattern = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/

export function createGate({ broker, limits, rootKey, open, host }: GateOptions): Gate {
  const rootDigest = rootKey === null ? null : digest(rootKey)
  const ownHost = host.includes(':') ? `[${host.toLowerCase()}]` : host.toLowerCase()

  function checkOrigin(exchange: Exchange): void {
    if (!open) return
    const named = hostOf(exchange).toLowerCase()
    const name = named.replace(/:\d*$/, '')
    if (!loopbackPattern.test(name) && name !== ownHost)
      throw new BrokerError('forbidden', 'Without a key only requests to a loopback host name are served.')
    const origin = header(exchange, 'origin')?.toLowerCase()
    const foreign = origin !== undefined && origin !== `http://${named}` && origin !== `https://${named}`
    if (foreign || header(exchange, 'sec-fetch-site') === 'cross-site')
      throw new BrokerError('forbidden', 'Without a key requests from pages of other origins are refused.')
  }

  function identify(exchange: Exchange, needs: Needs): Principal | null | Promise<Principal> {
    if (needs === 'nothing') return null
    const given = header(exchange, 'authorization')
    if (given === undefined) {
      if (open) return rootPrincipal
      if (needs === 'anyone') return null
      limits.stranger(exchange)
      throw new BrokerError('unauthenticated', 'Send an API key: `Authorization: Bearer KEY`.')
    }
    const key = bearerPattern.exec(given)?.[1]
    if (key === undefined) {
      limits.stranger(exchange)
      throw new BrokerError('unauthenticated', 'The Authorization header is not `Bearer KEY`.')
    }
    if (rootDigest && timingSafeEqual(rootDigest, digest(key))) return rootPrincipal
    return holderOf(exchange, key)
  }

  async function holderOf(exchange: Exchange, key: string): Promise<Principal> {
    let pardon: (() => void) | undefined
    let principal: Principal | null
    try {
      principal = await broker.authenticate(key, () => {
        pardon = limits.stranger(exchange)
      })
    } catch (error) {
      pardon?.()
      throw error
    }
    if (principal) {
      pardon?.()
      return principal
    }
    // One that was valid a moment ago was looked up for nothing, too.
    if (!pardon) limits.stranger(exchange)
    throw new BrokerError('unauthenticated', 'The API key is unknown, expired or revoked.')
  }

  return { checkOrigin, identify }
}

const digest = (secret: string): Buffer => createHash('sha256').update(secret).digest()

/** The Host header; without a server, the URL's own. */
const hostOf = (exchange: Exchange): string =>
  header(exchange, 'host') ?? (exchange.incoming ? '' : new URL(exchange.context.req.url).host)
