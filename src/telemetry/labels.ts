/** So that a label has only so many values: whoever comes first has one of its own, everybody else is `other`. */

export const other = 'other'

export type Labels = {
  /** The same for as long as it lives. */
  of(name: string): string
  isFull(): boolean
  /** Those that are not among the living lose theirs; which these were. */
  keep(living: ReadonlySet<string>): string[]
}

export function createLabels(most: number): Labels {
  const own = new Set<string>()
  return {
    of(name) {
      if (own.has(name)) return name
      if (own.size >= most) return other
      own.add(name)
      return name
    },
    isFull: () => own.size >= most,
    keep(living) {
      const gone = [...own].filter((name) => !living.has(name))
      for (const name of gone) own.delete(name)
      return gone
    },
  }
}
