/** What the commands print: JSON for programs, aligned columns for people; results on stdout, everything else on stderr. */

export type Output = {
  /** Resolves when the operating system has it; rejects when nobody reads any more. */
  data(value: unknown, human: () => string | Uint8Array): Promise<void>
  note(text: string): void
}

export const output = (json: boolean): Output => ({
  data: (value, human) => written(json ? `${JSON.stringify(value)}\n` : lineOf(human())),
  note: (text) => void process.stderr.write(`${text}\n`),
})

/** Bytes are bytes: no newline is added to them. */
const lineOf = (text: string | Uint8Array): string | Uint8Array => (typeof text === 'string' ? `${text}\n` : text)

const written = (text: string | Uint8Array): Promise<void> =>
  new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(error) : resolve()))
  })

/** Columns as wide as their widest cell. */
export function table(heads: readonly string[], rows: readonly (readonly unknown[])[]): string {
  const cells = [
    heads,
    ...rows.map((row) => row.map((cell) => (cell === null || cell === undefined ? '-' : String(cell)))),
  ]
  const widths = heads.map((_, column) => Math.max(...cells.map((row) => (row[column] ?? '').length)))
  return cells
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** A line for each field of what was found; what is nested is JSON. */
export function fieldTable(found: Readonly<Record<string, unknown>>): string {
  const cell = (value: unknown) => (typeof value === 'object' && value !== null ? JSON.stringify(value) : value)
  return table(
    ['SETTING', 'VALUE'],
    Object.entries(found).map(([name, value]) => [name, cell(value)]),
  )
}

/** One line that is written over, on a terminal only. */
export function progress(): { show(text: string): void; end(): void } {
  const live = process.stderr.isTTY === true
  return {
    show: (text) => live && process.stderr.write(`\r\x1b[K${text}`),
    end: () => live && process.stderr.write('\r\x1b[K'),
  }
}
