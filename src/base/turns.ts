/** So many at work at a time; the others wait for their turn, first come, first served. */

export type Turns = <T>(work: () => Promise<T>) => Promise<T>

export function turns(atOnce: number): Turns {
  const waiting: (() => void)[] = []
  let atWork = 0

  return async (work) => {
    if (atWork < atOnce) atWork++
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await work()
    } finally {
      // Whoever is next takes the place over; nobody else can come in between.
      const next = waiting.shift()
      if (next) next()
      else atWork--
    }
  }
}
