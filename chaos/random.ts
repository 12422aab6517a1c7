/** Random numbers from a seed: the same seed, the same plan. */

export type Random = {
  /** In [0, 1). */
  next(): number
  /** A whole number in [from, to]. */
  between(from: number, to: number): number
  chance(probability: number): boolean
  shuffled<T>(items: readonly T[]): T[]
  /** A stream of its own, so that actors do not depend on each other's speed. */
  child(name: string): Random
}

/** mulberry32 by Tommy Ettinger. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const between = (from: number, to: number): number => from + Math.floor(next() * (to - from + 1))
  return {
    next,
    between,
    chance: (probability) => next() < probability,
    shuffled(items) {
      const all = [...items]
      for (let at = all.length - 1; at > 0; at--) {
        const other = between(0, at)
        ;[all[at], all[other]] = [all[other] as never, all[at] as never]
      }
      return all
    },
    child: (name) =>
      createRandom([...name].reduce((hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 16777619), seed + 1)),
  }
}
