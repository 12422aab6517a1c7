/** A sum that must not be exceeded, taken and given back in parts. What does not fit is refused at once. */

export type Budget = {
  /** Whether it was taken. The first part always fits, however large, so that nothing is refused for ever. */
  take(amount: number): boolean
  give(amount: number): void
  /** Takes what is there already, whether it fits or not. */
  add(amount: number): void
  /** Nothing more fits. */
  full(): boolean
}

export function budget(total: number): Budget {
  let taken = 0
  return {
    take(amount) {
      if (taken > 0 && taken + amount > total) return false
      taken += amount
      return true
    },
    give(amount) {
      taken -= amount
    },
    add(amount) {
      taken += amount
    },
    full: () => taken >= total,
  }
}
