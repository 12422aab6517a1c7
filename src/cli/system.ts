/** The verbs that need no running gateway. What they run is loaded only then: the daily verbs should start quickly. */
import type { Command } from 'commander'
import { describeSettings, loadConfig } from '../config.ts'
import { CliError } from './client.ts'
import type { Context } from './context.ts'
import { table } from './output.ts'

export function systemCommands(
  program: Command,
  context: Context,
  environment: Record<string, string | undefined>,
): void {
  program
    .command('serve')
    .description('run a gateway; see "postern config" for its settings')
    .action(async () => {
      const { serve } = await import('../serve.ts')
      await serve()
    })
  program
    .command('migrate')
    .description('bring the database of DATABASE_URL to the present schema')
    .action(async (_options: unknown, command: Command) => {
      const { databaseUrl } = loadConfig(environment, { tty: false })
      if (databaseUrl === null) throw new CliError(2, 'Set DATABASE_URL. In local mode the gateway migrates by itself.')
      const { migrate } = await import('../store/index.ts')
      const applied = await migrate(databaseUrl)
      await context(command).out.data({ applied }, () => `${applied} migrations applied`)
    })
  program
    .command('config')
    .description('print every setting, its value, default and meaning')
    .action(async (_options: unknown, command: Command) => {
      const found = describeSettings(environment)
      const rows = found.map((each) => [each.name, each.value, each.default, each.about])
      await context(command).out.data(found, () => table(['SETTING', 'VALUE', 'DEFAULT', 'MEANING'], rows))
      // After the table, which shows what is meant by the mistakes.
      loadConfig(environment, { tty: false })
    })
  program
    .command('openapi')
    .description('print openapi.yaml')
    .action(async (_options: unknown, command: Command) => {
      const { openApiYaml } = await import('../http/index.ts')
      const text = openApiYaml()
      await context(command).out.data({ yaml: text }, () => Buffer.from(text))
    })
}
