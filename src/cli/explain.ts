/** `postern explain`: why a message is where it is. */
import type { Command } from 'commander'
import { queuePath } from './client.ts'
import type { Context } from './context.ts'
import { table } from './output.ts'

type Explanation = {
  state: string
  summary: string
  reasons: { code: string; detail: string }[]
  attempts: number
  max_attempts: number
  timeline: { at: string | null; event: string; detail: string; expected: boolean }[]
}

export function explainCommand(program: Command, context: Context): void {
  program
    .command('explain')
    .description('why a message is where it is, and what is known of its life')
    .argument('<queue>')
    .argument('<id>', 'of the message')
    .action(async (queue: string, id: string, _options: unknown, command: Command) => {
      const { client, out } = context(command)
      const found = await client.json<Explanation>(
        'GET',
        queuePath(queue, `/messages/${encodeURIComponent(id)}/explain`),
      )
      await out.data(found, () => inWords(id, found))
    })
}

function inWords(id: string, { state, attempts, max_attempts: most, reasons, timeline }: Explanation): string {
  const rows = timeline.map(({ at, event, detail, expected }) => [at ?? '-', expected ? `(${event})` : event, detail])
  return [
    `${id}: ${state}, ${attempts} of ${most} attempts`,
    ...reasons.map(({ code, detail }) => `  ${code}: ${detail}`),
    '',
    table(['AT', 'EVENT', ''], rows),
  ].join('\n')
}
