/** The command `postern`: the gateway itself, and the daily verbs against a running one. */
import { Command, CommanderError } from 'commander'
import { CliError } from './cli/client.ts'
import { createContext } from './cli/context.ts'
import { doctorCommand } from './cli/doctor.ts'
import { explainCommand } from './cli/explain.ts'
import { keysCommand } from './cli/keys.ts'
import { listenCommand } from './cli/listen.ts'
import { queuesCommand, statsCommand } from './cli/queues.ts'
import { receiveCommand, settleCommands } from './cli/receive.ts'
import { redriveCommand, tasksCommand } from './cli/redrive.ts'
import { schedulesCommand } from './cli/schedules.ts'
import { sendCommand } from './cli/send.ts'
import { subscriptionsCommand } from './cli/subscriptions.ts'
import { systemCommands } from './cli/system.ts'
import { topicsCommand } from './cli/topics.ts'
import { ConfigError, processEnv } from './config.ts'
import { version } from './version.ts'

const exitCodes = `
Exit codes: 0 done · 1 refused by the gateway, or failed · 2 wrong usage · 3 no gateway there · 78 wrong configuration ·
130 interrupted`

function createProgram(environment: Record<string, string | undefined>): Command {
  const program = new Command('postern')
    .description('A message queue over HTTP, on Postgres.')
    .version(version)
    .option('--url <url>', 'the gateway (POSTERN_URL, or http://127.0.0.1:7070)')
    .option('--key <key>', 'the API key (POSTERN_KEY, or POSTERN_ROOT_KEY)')
    .option('--json', 'print JSON')
    .exitOverride()
    .addHelpText('after', exitCodes)
  const context = createContext(environment)
  systemCommands(program, context, environment)
  sendCommand(program, context)
  receiveCommand(program, context)
  settleCommands(program, context)
  queuesCommand(program, context)
  statsCommand(program, context)
  explainCommand(program, context)
  doctorCommand(program, context, environment)
  topicsCommand(program, context)
  subscriptionsCommand(program, context)
  listenCommand(program, context)
  schedulesCommand(program, context)
  redriveCommand(program, context)
  tasksCommand(program, context)
  keysCommand(program, context)
  return program
}

/** What a thrown error means to whoever called the command. */
function exitCodeOf(error: unknown): number {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof CliError) return error.exitCode
  if (error instanceof ConfigError) return 78
  // The reader of a pipe has had enough.
  if (code === 'EPIPE') return 0
  return code === 'ENOENT' || code === 'EACCES' || code === 'EISDIR' ? 2 : 1
}

// Every write reports its own failure; without a listener a closed pipe would end the process in the middle.
process.stdout.on('error', () => {})
try {
  await createProgram(processEnv()).parseAsync()
} catch (error) {
  process.exitCode = exitCodeOf(error)
  // Commander has said its own.
  if (process.exitCode !== 0 && !(error instanceof CommanderError))
    process.stderr.write(`postern: ${error instanceof Error ? error.message : String(error)}\n`)
}
