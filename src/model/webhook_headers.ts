/** Which headers a webhook carries besides Postern's own. */

/** Of a connection, not of a message (RFC 9110, 7.6.1), or set by the client that sends. */
const ofTheConnection = new Set([
  'connection',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'host',
  'content-length',
  'expect',
  'http2-settings',
])
const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,255}$/
const control = /[^\P{Cc}\t]/u

const isOfTheConnection = (name: string): boolean => ofTheConnection.has(name) || name.startsWith('proxy-')

/** Postern's own: nobody else may say who signed what, and when. */
const isOwn = (name: string): boolean =>
  name.startsWith('webhook-') || name === 'postern-attempt' || name === 'postern-subscription'

/** Whether a message's header goes with the webhook. Names in lower case. Credentials are only sent when a subscription says so. */
export const mayTravel = (name: string): boolean =>
  token.test(name) && !isOfTheConnection(name) && !isOwn(name) && name !== 'content-type' && name !== 'authorization'

/** Whether a header's value can be sent at all: nothing in it may end or split the line. */
export const isSendable = (value: string): boolean => !control.test(value)

/** null, or why a subscription may not have this header. */
export function configuredHeaderError(name: string, value: unknown): string | null {
  if (!token.test(name)) return 'is not a header name'
  const lower = name.toLowerCase()
  if (isOfTheConnection(lower) || isOwn(lower)) return 'is set by Postern'
  if (typeof value !== 'string') return 'must be a string'
  return isSendable(value) && !/\p{Surrogate}/u.test(value) ? null : 'must be text without control characters'
}
