/** Which URLs a webhook may have. What a host name resolves to is judged when it is dialled, not here. */
import { subscriptionLimits } from './subscription.ts'

/** null, or what is wrong. http and https only, and no credentials, which would end up in logs. */
export function urlError(text: string): string | null {
  if (text.length === 0 || text.length > subscriptionLimits.urlLength)
    return `must be 1–${subscriptionLimits.urlLength} characters`
  // URL drops these silently.
  if (/[\p{Cc}\s]/u.test(text)) return 'must not contain white space or control characters'
  let url: URL
  try {
    url = new URL(text)
  } catch {
    return 'must be an absolute URL'
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return 'must begin with http:// or https://'
  if (!/^https?:\/\/[^/\\]/i.test(text)) return 'must be an absolute URL with a host'
  if (url.username !== '' || url.password !== '') return 'must not contain a user name or password'
  return url.hostname === '' ? 'must have a host' : null
}

/** The address, when the host is one. URL has by then brought every notation (0x7f.1, 2130706433) into the usual form. */
export function hostAddress(url: URL): string | null {
  const host = url.hostname
  if (host.startsWith('[')) return host.slice(1, -1)
  return /^\d+\.\d+\.\d+\.\d+$/.test(host) ? host : null
}
