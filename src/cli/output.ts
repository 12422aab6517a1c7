/** What the commands print: JSON for programs, aligned columns for people; results on stdout, everything else on stderr. */

export type Output = { data(value: unknown, human: () => string): void; note(text: string): void }

export const output = (json: boolean): Output => ({
  data: (value, human) => void process.stdout.write(`${json ? JSON.stringify(value) : human()}\n`),
  note: (text) => void process.stderr.write(`${text}\n`),
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

/** One line that is written over, on a terminal only. */
export function progress(): { show(text: string): void; end(): void } {
  const live = process.stderr.isTTY === true
  return {
    show: (text) => live && process.stderr.write(`\r\x1b[K${text}`),
    end: () => live && process.stderr.write('\r\x1b[K'),
  }
}
