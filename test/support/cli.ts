/** The command line program, as a process that ends. */
import { execFile } from 'node:child_process'

/** `code` null: a signal ended it. */
export type Ended = { code: number | null; stdout: string; stderr: string }

const root = new URL('../../', import.meta.url).pathname

/** `environment` is all that it gets besides PATH. */
export const postern = (words: readonly string[], environment: Record<string, string>): Promise<Ended> =>
  new Promise((resolve) => {
    const all = ['--import', 'tsx', 'src/cli.ts', ...words]
    const options = { cwd: root, env: { PATH: process.env.PATH ?? '', ...environment } }
    execFile(process.execPath, all, options, (error, stdout, stderr) =>
      resolve({ code: !error ? 0 : typeof error.code === 'number' ? error.code : null, stdout, stderr }),
    )
  })
