/**
 * Where values lie in a JSON text that JSON.parse has already accepted, so that a value can be kept exactly as it was
 * sent: big integers, 1.00, the order of keys, keys given twice. Walks in a loop; depth costs nothing.
 */

/** From `start` up to but not including `end`. */
export type Slice = { start: number; end: number }

const QUOTE = 34
const COMMA = 44
const COLON = 58
const BACKSLASH = 92
const OPEN_BRACKET = 91
const CLOSE_BRACKET = 93
const OPEN_BRACE = 123
const CLOSE_BRACE = 125

/** The members of the object that begins at or after `at`, by name; of a repeated name the last, as JSON.parse does. */
export function objectMembers(text: string, at: number): Map<string, Slice> {
  const members = new Map<string, Slice>()
  let next = skipSpace(text, skipSpace(text, at) + 1)
  while (text.charCodeAt(next) !== CLOSE_BRACE) {
    const keyEnd = endOfString(text, next)
    const key = text.slice(next, keyEnd)
    const start = skipSpace(text, expect(text, skipSpace(text, keyEnd), COLON))
    const end = endOfValue(text, start)
    members.set(key.includes('\\') ? JSON.parse(key) : key.slice(1, -1), { start, end })
    next = skipSpace(text, end)
    if (text.charCodeAt(next) === COMMA) next = skipSpace(text, next + 1)
  }
  return members
}

/** The elements of the array that begins at or after `at`. */
export function arrayElements(text: string, at: number): Slice[] {
  const elements: Slice[] = []
  let next = skipSpace(text, skipSpace(text, at) + 1)
  while (text.charCodeAt(next) !== CLOSE_BRACKET) {
    const end = endOfValue(text, next)
    elements.push({ start: next, end })
    next = skipSpace(text, end)
    if (text.charCodeAt(next) === COMMA) next = skipSpace(text, next + 1)
  }
  return elements
}

function endOfValue(text: string, start: number): number {
  const first = text.charCodeAt(start)
  if (first === QUOTE) return endOfString(text, start)
  if (first === OPEN_BRACE || first === OPEN_BRACKET) return endOfContainer(text, start)
  let at = start
  while (at < text.length && !endsScalar(text.charCodeAt(at))) at++
  if (at === start) throw unexpected(at)
  return at
}

function endOfContainer(text: string, start: number): number {
  let depth = 0
  for (let at = start; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === QUOTE) at = endOfString(text, at) - 1
    else if (code === OPEN_BRACE || code === OPEN_BRACKET) depth++
    else if ((code === CLOSE_BRACE || code === CLOSE_BRACKET) && --depth === 0) return at + 1
  }
  throw unexpected(text.length)
}

function endOfString(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === BACKSLASH) at++
    else if (code === QUOTE) return at + 1
  }
  throw unexpected(text.length)
}

function skipSpace(text: string, start: number): number {
  let at = start
  while (isSpace(text.charCodeAt(at))) at++
  return at
}

function expect(text: string, at: number, code: number): number {
  if (text.charCodeAt(at) !== code) throw unexpected(at)
  return at + 1
}

const isSpace = (code: number): boolean => code === 32 || code === 10 || code === 13 || code === 9
const endsScalar = (code: number): boolean =>
  code === COMMA || code === CLOSE_BRACE || code === CLOSE_BRACKET || isSpace(code)

/** Only for a text that was not parsed before: what loops here would otherwise loop for ever. */
const unexpected = (at: number): Error => new Error(`not the JSON that was parsed, at ${at}`)
