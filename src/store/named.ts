/** Statements whose parameters have names, so that a part that is left out takes its parameters along. */
import type { Database, Parameter } from './client.ts'

/** `names`: of `$1`, `$2` … in order. */
export type Named = { text: string; names: readonly string[] }

/** From a text in which parameters stand as `$name`. */
export function named(text: string): Named {
  const names: string[] = []
  const numbered = text.replace(/\$([a-z_]+)/g, (_, name: string) => {
    const at = names.indexOf(name)
    return `$${at >= 0 ? at + 1 : names.push(name)}`
  })
  return { text: numbered, names }
}

/** Runs it on a connection for the queue's own statements; of `values` only those are made that it names. */
export async function runNamed<Row>(
  db: Database,
  { text, names }: Named,
  values: Readonly<Record<string, () => Parameter>>,
): Promise<Row[]> {
  return await db.hot<Row>(
    text,
    names.map((name) => {
      const value = values[name]
      if (!value) throw new Error(`The statement has no value for ${name}.`)
      return value()
    }),
  )
}
