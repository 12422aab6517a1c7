/** The command `postern`: the gateway itself, and the daily verbs against a running one. */
import { Command, CommanderError } from 'commander'
import { version } from './app.ts'
import { CliError, createClient } from './cli/client.ts'
import { receiveCommand, sendCommand } from './cli/messages.ts'
import { output, table } from './cli/output.ts'
import { keysCommand, queuesCommand, statsCommand } from './cli/queues.ts'
import { describeSettings, loadConfig, processEnv } from './config.ts'
import { openApiYaml } from './http/index.ts'
import { serve } from './serve.ts'
import { migrate } from './store/index.ts'

type Shared = { url?: string; key?: string; json?: boolean }

const environment = processEnv()

function context(command: Command) {
  const { url, key, json = false } = command.optsWithGlobals<Shared>()
  const client = createClient(
    url ?? environment.POSTERN_URL ?? 'http://127.0.0.1:7070',
    key ?? environment.POSTERN_KEY ?? environment.POSTERN_ROOT_KEY,
  )
  return { client, json, out: output(json) }
}

const program = new Command('postern')
  .description('A message queue over HTTP, on Postgres.')
  .version(version)
  .option('--url <url>', 'the gateway (POSTERN_URL, or http://127.0.0.1:7070)')
  .option('--key <key>', 'the API key (POSTERN_KEY, or POSTERN_ROOT_KEY)')
  .option('--json', 'print JSON')
  .exitOverride()
  .addHelpText(
    'after',
    '\nExit codes: 0 done, 1 refused by the gateway, 2 wrong usage, 3 no gateway there, 78 wrong configuration, 130 interrupted.',
  )

program.command('serve').description('run a gateway; see "postern config" for its settings').action(serve)
program
  .command('migrate')
  .description('bring the database of DATABASE_URL to the present schema')
  .action(async (_options: unknown, command: Command) => {
    const { databaseUrl } = loadConfig(environment, { tty: false })
    if (databaseUrl === null) throw new CliError(2, 'Set DATABASE_URL. In local mode the gateway migrates by itself.')
    const applied = await migrate(databaseUrl)
    context(command).out.data({ applied }, () => `${applied} migrations applied`)
  })
program
  .command('config')
  .description('print every setting, its value, default and meaning')
  .action((_options: unknown, command: Command) => {
    const found = describeSettings(environment)
    context(command).out.data(found, () =>
      table(
        ['SETTING', 'VALUE', 'DEFAULT', 'MEANING'],
        found.map((each) => [each.name, each.value, each.default, each.about]),
      ),
    )
    loadConfig(environment, { tty: false })
  })
program
  .command('openapi')
  .description('print openapi.yaml')
  .action(() => void process.stdout.write(openApiYaml()))
sendCommand(program, context)
receiveCommand(program, context)
queuesCommand(program, context)
statsCommand(program, context)
keysCommand(program, context)

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2
  else if (error instanceof CliError) {
    process.stderr.write(`postern: ${error.message}\n`)
    process.exitCode = error.exitCode
  } else {
    process.stderr.write(`postern: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = error instanceof Error && error.name === 'ConfigError' ? 78 : 1
  }
}
