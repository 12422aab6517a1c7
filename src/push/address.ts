/**
 * Which addresses may be dialled. By default only globally routable unicast ones (IANA's special-purpose registries, RFC 6890), so
 * that whoever may register a webhook cannot reach what only the gateway can.
 */
import type dns from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'

type Network = ReturnType<typeof ipaddr.parseCIDR>

/** Special-purpose blocks that `ipaddr.js` calls unicast; and Azure's WireServer, a public address that gives a machine its secrets. */
const refused4: Network[] = ['192.88.99.0/24', '198.18.0.0/15', '192.0.0.0/24', '168.63.129.16/32'].map((text) =>
  ipaddr.parseCIDR(text),
)
/** All global unicast addresses are in 2000::/3 (RFC 4291, 2.4); not those that carry an IPv4 address, or are for documents. */
const global6 = ipaddr.parseCIDR('2000::/3')
const refused6: Network[] = ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'].map((text) =>
  ipaddr.parseCIDR(text),
)

type Address = ipaddr.IPv4 | ipaddr.IPv6

/** An IPv4-mapped IPv6 address is the IPv4 address that would be dialled. */
function isPublic(address: Address): boolean {
  if (address.range() !== 'unicast') return false
  if (address.kind() === 'ipv4') return !refused4.some((network) => within(address, network))
  return within(address, global6) && !refused6.some((network) => within(address, network))
}

function within(address: Address, [network, bits]: Network): boolean {
  return address.kind() === network.kind() && address.match(network, bits)
}

/** `allowPrivate` true: any address; a list: also what lies in these networks. */
export function addressPolicy(allowPrivate: boolean | readonly string[]): (address: string) => boolean {
  if (allowPrivate === true) return () => true
  const networks = allowPrivate === false ? [] : allowPrivate.map((text) => ipaddr.parseCIDR(text))
  return (text) => {
    // A zone (fe80::1%eth0) names an interface of this machine; ::8.8.8.8 ipaddr.js reads as ::ffff:8.8.8.8, which it is not.
    if (isIP(text) === 0 || /%|^::\d+\./.test(text)) return false
    const address = ipaddr.process(text)
    return isPublic(address) || networks.some((network) => within(address, network))
  }
}

/** `true`, `false`, or networks separated by commas; null for anything else. */
export function parseAllowPrivate(text: string): boolean | string[] | null {
  if (text === 'true' || text === 'false') return text === 'true'
  const networks = text.split(',').map((part) => part.trim())
  return networks.every((network) => ipaddr.isValidCIDR(network)) ? networks : null
}

export const forbiddenAddressCode = 'ERR_FORBIDDEN_ADDRESS'
export const forbiddenAddress = (): NodeJS.ErrnoException =>
  Object.assign(new Error('not a public address'), { code: forbiddenAddressCode })

type Answer = (error: NodeJS.ErrnoException | null, found: dns.LookupAddress[]) => void

/**
 * Resolves to allowed addresses only, which are those that are then dialled: a name that says something else the next time
 * (DNS rebinding) is judged the next time. Who asks for a name that is being looked up waits for that answer: lookups share the four
 * threads of libuv, and a name server that does not answer would take all of them with one busy endpoint.
 */
export function guardedLookup(allow: (address: string) => boolean, lookup: LookupFunction): LookupFunction {
  const underWay = new Map<string, Answer[]>()
  return (host, options, callback) => {
    const answer: Answer = (error, found) => {
      if (error) return callback(error, '', 0)
      const good = found.filter((each) => allow(each.address))
      const [first] = good
      if (!first) return callback(forbiddenAddress(), '', 0)
      if (options.all) return callback(null, good)
      callback(null, first.address, first.family)
    }
    const others = underWay.get(host)
    if (others) return void others.push(answer)
    const waiting = [answer]
    underWay.set(host, waiting)
    lookup(host, { ...options, all: true }, (error, found) => {
      underWay.delete(host)
      const all = Array.isArray(found) ? found : [{ address: found, family: isIP(found) }]
      for (const each of waiting) each(error, all)
    })
  }
}
