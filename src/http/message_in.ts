/** From what a caller sends to a NewMessage: the options, the body's content type, the limits on both. */
import { isUtf8 } from 'node:buffer'
import { wallMs } from '../base/index.ts'
import { type FieldError, type Headers, limits, messageLimits, type NewMessage } from '../model/index.ts'
import { isWellFormed } from './fields.ts'

/** Options as a query or a JSON object gives them. */
export type MessageOptions = {
  delay?: number | null | undefined
  deliver_at?: number | null | undefined
  ttl?: number | null | undefined
  priority?: number | null | undefined
  key?: string | null | undefined
  dedup_id?: string | null | undefined
}

export const defaultPriority = 5
export const standardType = 'application/octet-stream'
export const jsonType = 'application/json'
const formType = 'application/x-www-form-urlencoded'

export function newMessage(
  body: Buffer,
  contentType: string,
  headers: Headers | null,
  options: MessageOptions,
): NewMessage {
  return {
    body,
    contentType,
    headers,
    key: options.key ?? null,
    priority: options.priority ?? defaultPriority,
    delayMs: options.delay ?? null,
    deliverAtMs: options.deliver_at ?? null,
    ttlMs: options.ttl ?? null,
    dedupId: options.dedup_id ?? null,
  }
}

/** What no single field can say. `pointerTo` names an option in an error. */
export function optionErrors(options: MessageOptions, pointerTo: (option: string) => string): FieldError[] {
  if (options.deliver_at == null) return []
  if (options.delay != null) return [{ pointer: pointerTo('deliver_at'), detail: 'excludes delay: give one of them' }]
  if (options.deliver_at - wallMs() <= limits.delayMs.max) return []
  return [{ pointer: pointerTo('deliver_at'), detail: 'must not be more than ten years ahead' }]
}

/** null, or what is wrong with a content type. */
export function contentTypeError(text: string): string | null {
  const fine = text.length > 0 && text.length <= messageLimits.textLength && isWellFormed(text) && !/\p{Cc}/u.test(text)
  return fine ? null : `must be 1–${messageLimits.textLength} characters without control characters`
}

/** `curl -d` declares a form whatever it sends; when that is JSON text, JSON was meant. Any other type is kept. */
export function typeOfBody(declared: string, body: Buffer): string {
  const isForm = declared.length >= formType.length && declared.split(';', 1)[0]?.trim().toLowerCase() === formType
  return isForm && isJsonText(body) ? jsonType : declared
}

export function isJsonText(body: Buffer): boolean {
  if (!isUtf8(body)) return false
  try {
    JSON.parse(body.toString('utf8'))
    return true
  } catch {
    return false
  }
}
