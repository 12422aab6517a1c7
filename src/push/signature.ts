/** Signatures by Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md). */
import { createHmac, randomBytes } from 'node:crypto'

const prefix = 'whsec_'

/** 24 random bytes, as the specification recommends. */
export const newSecret = (): string => prefix + randomBytes(24).toString('base64')

/**
 * The value of `webhook-signature`: one `v1` for each secret, over id, timestamp (seconds since 1970) and the bytes of the body, so
 * that during a rotation a receiver may hold either secret.
 */
export function sign(secrets: readonly string[], id: string, timestampS: number, body: Buffer): string {
  return secrets
    .map((secret) => {
      const hmac = createHmac('sha256', Buffer.from(secret.replace(prefix, ''), 'base64'))
      return `v1,${hmac.update(`${id}.${timestampS}.`).update(body).digest('base64')}`
    })
    .join(' ')
}
