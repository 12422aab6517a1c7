/** Routing keys reach the bindings that AMQP's topic rules say, one by one and by the table. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { routeTable } from '../src/model/route_table.ts'
import { keyMatches, patternError, routingKeyError } from '../src/model/routing_key.ts'

const cases: [pattern: string, matching: string[], other: string[]][] = [
  ['', [''], ['a', '.', 'a.b']],
  ['a', ['a'], ['', 'A', 'b', 'a.', '.a', 'a.a', 'aa']],
  ['a.b', ['a.b'], ['a', 'b', 'a.b.c', 'a..b', 'a.c']],
  ['*', ['a', 'ab', '*', '#'], ['', 'a.b', '.']],
  ['#', ['', 'a', 'a.b', 'a.b.c', '.', '..', '#', '*.a'], []],
  ['a.*', ['a.b', 'a.', 'a.*'], ['a', '', 'a.b.c', 'b.a']],
  ['*.a', ['b.a', '.a', 'a.a'], ['a', 'a.b', 'b.c.a']],
  ['a.#', ['a', 'a.b', 'a.b.c', 'a.', 'a..'], ['', 'b', 'b.a', 'ab', 'aa.b']],
  ['#.a', ['a', 'b.a', 'c.b.a', '.a', 'a.a'], ['', 'a.b', 'ba', 'a.']],
  ['a.#.b', ['a.b', 'a.c.b', 'a.c.d.b', 'a..b', 'a.b.b'], ['', 'a', 'b', 'a.b.c', 'c.a.b']],
  ['*.*', ['a.b', '.'], ['', 'a', 'a.b.c']],
  ['*.#', ['a', 'a.b', 'a.b.c', '.'], ['']],
  ['#.*', ['a', 'a.b', 'a.b.c', '.'], ['']],
  ['#.#', ['', 'a', 'a.b', '.'], []],
  ['#.*.#', ['a', 'a.b', '..'], ['']],
  ['*.#.*', ['a.b', 'a.b.c', '.'], ['', 'a']],
  ['#.a.#', ['a', 'b.a', 'a.b', 'b.a.c', 'a.a'], ['', 'b', 'b.c']],
  ['#.a.*.#.b.#', ['a.c.b', 'a.a.a.b', 'x.a.c.d.b.y'], ['', 'a.b', 'b.a.c', 'a.b.c']],
  ['a..b', ['a..b'], ['a.b', 'a.c.b']],
  ['a.*.b', ['a..b', 'a.c.b'], ['a.b', 'a.c.c.b']],
  ['.', ['.'], ['', 'a', '..']],
  ['a*', ['a*'], ['a', 'ab', 'a.b']],
  ['a#.b', ['a#.b'], ['a.b', 'ac.b']],
  ['**', ['**'], ['a', 'a.b', '']],
  ['*.__proto__', ['a.__proto__'], ['__proto__', 'a.constructor']],
]

describe.each(cases)('the pattern "%s"', (pattern, matching, other) => {
  test.each(matching)('wants "%s"', (key) => {
    expect(keyMatches(pattern, key)).toBe(true)
    expect(routeTable([{ pattern, value: 1 }]).match(key)).toEqual([1])
  })
  test.each(other)('does not want "%s"', (key) => {
    expect(keyMatches(pattern, key)).toBe(false)
    expect(routeTable([{ pattern, value: 1 }]).match(key)).toEqual([])
  })
})

type Matcher = (pattern: string, key: string) => boolean

/** The rules as they are said, word by word, in exponential time. `fewest`: the words that `#` needs. */
const naive =
  (fewest: number): Matcher =>
  (pattern, key) => {
    const words = (text: string): string[] => (text === '' ? [] : text.split('.'))
    const fits = ([wanted, ...rest]: string[], given: string[]): boolean => {
      if (wanted === undefined) return given.length === 0
      if (wanted === '#') return given.concat('').some((_, taken) => taken >= fewest && fits(rest, given.slice(taken)))
      const [word, ...others] = given
      return word !== undefined && (wanted === '*' || wanted === word) && fits(rest, others)
    }
    return fits(words(pattern), words(key))
  }

const words = (...known: string[]) =>
  fc.array(fc.constantFrom(...known), { maxLength: 6 }).map((each) => each.join('.'))
const anyPattern = words('*', '#', '#', 'a', 'b', '', 'a*')
const anyKey = words('a', 'a', 'b', '', '*', '#', 'a*')

const matchesLike = (reference: Matcher) =>
  fc.property(anyPattern, anyKey, (pattern, key) => keyMatches(pattern, key) === reference(pattern, key))

const findsLike = (reference: Matcher) =>
  fc.property(fc.array(anyPattern, { maxLength: 20 }), fc.array(anyKey, { minLength: 1 }), (patterns, keys) => {
    const table = routeTable(patterns.map((pattern, index) => ({ pattern, value: index })))
    return keys.every((key) => {
      const expected = patterns.flatMap((pattern, index) => (reference(pattern, key) ? [index] : []))
      return String(table.match(key)) === String(expected)
    })
  })

describe('for any pattern and key', () => {
  const runs = { numRuns: 2000 }
  test('keyMatches agrees with the rules', () => fc.assert(matchesLike(naive(0)), runs))
  test('the route table agrees with the rules', () => fc.assert(findsLike(naive(0)), runs))
  test('twin: a # that needs a word is found out', () => {
    expect(fc.check(matchesLike(naive(1)), runs).failed).toBe(true)
    expect(fc.check(findsLike(naive(1)), runs).failed).toBe(true)
  })
})

describe('the longest patterns', () => {
  const pattern = `${'#.a.'.repeat(63)}#`
  test('end, though they match in very many ways', () => {
    const key = `${'a.'.repeat(126)}a`
    expect(keyMatches(pattern, key)).toBe(true)
    expect(keyMatches(`${pattern}.b`, key)).toBe(false)
    const table = routeTable([
      { pattern, value: 'matching' },
      { pattern: `${pattern}.b`, value: 'other' },
    ])
    expect(table.match(key)).toEqual(['matching'])
  })
})

describe('a large route table', () => {
  const exact = Array.from({ length: 10_000 }, (_, index) => ({ pattern: `orders.${index}`, value: `exact ${index}` }))
  const wild = Array.from({ length: 1000 }, (_, index) => ({ pattern: `*.${index}.#`, value: `wild ${index}` }))
  const table = routeTable([...wild, ...exact])
  test('finds each route, in the order given', () => {
    for (const index of [0, 1, 500, 999])
      expect(table.match(`orders.${index}`)).toEqual([`wild ${index}`, `exact ${index}`])
    expect(table.match('orders.9999')).toEqual(['exact 9999'])
    expect(table.match('orders.10000')).toEqual([])
    expect(table.match('eu.7.paid')).toEqual(['wild 7'])
  })
})

test('routes of the same pattern and the same value are all found, in the order given', () => {
  const routes = ['#', 'a', '*', 'a', '#', '#.#', 'a.#'].map((pattern, index) => ({ pattern, value: index % 2 }))
  expect(routeTable(routes).match('a')).toEqual([0, 1, 0, 1, 0, 1, 0])
})

describe.each([
  ['a routing key', routingKeyError],
  ['a pattern', patternError],
])('%s', (_name, errorOf) => {
  test.each(['', 'a', 'a.b', '..', '*.#', 'a*', 'größe', '😀', 'a b', '/', 'x'.repeat(255)])('may be "%s"', (text) =>
    expect(errorOf(text)).toBeNull(),
  )
  test('is at most 255 characters', () => expect(errorOf('x'.repeat(256))).toBe('must be at most 255 characters'))
  test.each(['a\0', '\n', 'a\u007f', '\u0085', '\ud83d', 'a\ude00.b'])('must be clean text: %j', (text) =>
    expect(errorOf(text)).toBe('must be text without control characters'),
  )
})
