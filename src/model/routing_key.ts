/** Routing keys and the patterns of bindings: which key a pattern wants, in time bounded by the product of their lengths. */
import { topicLimits } from './topic.ts'

/**
 * Whether a pattern wants a key. Both are words between dots; in a pattern the word `*` stands for exactly one word and the word `#`
 * for zero or more (AMQP 0-9-1, 3.1.3.3). Where the specification is silent, as RabbitMQ: the empty key has no words, an empty word
 * between dots is a word, and `*` or `#` within a longer word, or in a key, is itself.
 */
export function keyMatches(pattern: string, key: string): boolean {
  const wanted = wordsOf(pattern)
  const words = wordsOf(key)
  let p = 0
  let w = 0
  let hash = -1
  let mark = 0
  while (w < words.length) {
    if (wanted[p] === '#') {
      hash = p++
      mark = w
    } else if (wanted[p] === '*' || wanted[p] === words[w]) {
      p++
      w++
    } else if (hash >= 0) {
      p = hash + 1
      w = ++mark
    } else return false
  }
  while (wanted[p] === '#') p++
  return p === wanted.length
}

/** The words of a key or a pattern; the empty text has none. */
export const wordsOf = (text: string): string[] => (text === '' ? [] : text.split('.'))

/** What is wrong with a routing key; null when nothing is. */
export function routingKeyError(text: string): string | null {
  if (text.length > topicLimits.routingKeyLength) return `must be at most ${topicLimits.routingKeyLength} characters`
  // The `u` flag makes \p{Cs} match only surrogates without their other half.
  return /[\p{Cc}\p{Cs}]/u.test(text) ? 'must be text without control characters' : null
}

/** What is wrong with a pattern; null when nothing is. Every text that can be a key can be a pattern. */
export const patternError = (text: string): string | null => routingKeyError(text)
