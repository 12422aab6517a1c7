/** What a message on the command line is made of: its bytes, its type, its headers. */
import { isUtf8 } from 'node:buffer'
import { readFile } from 'node:fs/promises'
import { CliError } from './client.ts'

/** `name=value`, added to those before it. */
export function addPair(word: string, pairs: Record<string, string> = {}): Record<string, string> {
  const at = word.indexOf('=')
  if (at < 1) throw new CliError(2, `${word}: write it as name=value`)
  return { ...pairs, [word.slice(0, at)]: word.slice(at + 1) }
}

export async function bytesFrom(file: string | undefined): Promise<Buffer> {
  if (file !== undefined) return await readFile(file)
  if (process.stdin.isTTY) throw new CliError(2, 'Give a body: as an argument, with --file, or on stdin.')
  const parts: Buffer[] = []
  for await (const part of process.stdin) parts.push(Buffer.from(part))
  return Buffer.concat(parts)
}

export function guessedType(body: Buffer): string {
  if (!isUtf8(body)) return 'application/octet-stream'
  try {
    JSON.parse(body.toString())
    return 'application/json'
  } catch {
    return 'text/plain; charset=utf-8'
  }
}
