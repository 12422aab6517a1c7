/**
 * A receipt names exactly one lease of one message. What makes it safe is the random token inside, which the row must
 * still carry; the checksum only lets a garbled, made-up or foreign receipt be told from one that has been taken over.
 */

export type Receipt = {
  queueId: number
  lane: number
  /** Where the message lies now; it gets a new position when it is retried. */
  position: number
  /** The message's first position, which is its id. */
  id: number
  token: number
}

const version = 1
const length = 36
const checkAt = 30
const receiptPattern = /^[A-Za-z0-9_-]{48}$/

/** Encodes and decodes receipts under a secret of at least 16 bytes that all gateways of one database share. */
export function receiptCodec(secret: Buffer): {
  encode(receipt: Receipt): string
  /** null: not a receipt of this deployment. */
  decode(text: string): Receipt | null
} {
  const keys = [0, 4, 8, 12].map((offset) => secret.readUInt32LE(offset))
  const scratch = Buffer.alloc(length)

  function encode(receipt: Receipt): string {
    scratch[0] = version
    scratch.writeUInt32BE(receipt.queueId, 1)
    scratch[5] = receipt.lane
    writeWhole(scratch, receipt.position, 6)
    writeWhole(scratch, receipt.id, 14)
    writeWhole(scratch, receipt.token, 22)
    writeCheck(scratch, keys, checkAt)
    return scratch.toString('base64url')
  }

  function decode(text: string): Receipt | null {
    if (!receiptPattern.test(text)) return null
    const bytes = Buffer.from(text, 'base64url')
    if (bytes[0] !== version) return null
    writeCheck(scratch.fill(bytes, 0, checkAt), keys, checkAt)
    if (bytes.compare(scratch, checkAt, length, checkAt, length) !== 0) return null
    return {
      queueId: bytes.readUInt32BE(1),
      lane: bytes[5] ?? 0,
      position: readWhole(bytes, 6),
      id: readWhole(bytes, 14),
      token: readWhole(bytes, 22),
    }
  }

  return { encode, decode }
}

/** A whole number of up to 53 bits and sign, as two 32-bit halves: BigInt is ten times slower here. */
function writeWhole(into: Buffer, value: number, at: number): void {
  into.writeInt32BE(Math.floor(value / 0x1_0000_0000), at)
  into.writeUInt32BE(value >>> 0, at + 4)
}

const readWhole = (from: Buffer, at: number): number => from.readInt32BE(at) * 0x1_0000_0000 + from.readUInt32BE(at + 4)

/** 48 bits over the first `end` bytes: MurmurHash3's mixing (Appleby, 2011, public domain), twice, under two keys each. */
function writeCheck(bytes: Buffer, keys: readonly number[], end: number): void {
  const low = mix(bytes, keys[0] ?? 0, keys[1] ?? 0, end)
  const high = mix(bytes, keys[2] ?? 0, keys[3] ?? 0, end)
  bytes.writeUInt32BE(low, end)
  bytes.writeUInt16BE(high & 0xffff, end + 4)
}

function mix(bytes: Buffer, seed: number, key: number, end: number): number {
  let hash = seed
  for (let at = 0; at < end; at += 2) {
    let word = Math.imul(bytes.readUInt16LE(at) ^ key, 0xcc9e2d51)
    word = (word << 15) | (word >>> 17)
    hash ^= Math.imul(word, 0x1b873593)
    hash = (hash << 13) | (hash >>> 19)
    hash = (Math.imul(hash, 5) + 0xe6546b64) | 0
  }
  hash ^= hash >>> 16
  hash = Math.imul(hash, 0x85ebca6b)
  hash ^= hash >>> 13
  hash = Math.imul(hash, 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
