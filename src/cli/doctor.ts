/** `postern doctor`: everything that is wrong, and what to do about it. */
import type { Command } from 'commander'
import { ConfigError, loadConfig } from '../config.ts'
import { version } from '../version.ts'
import { CliError, type Client } from './client.ts'
import type { Context } from './context.ts'

/** As /readyz?verbose names them, and the doctor's own. */
type Finding = { code: string; detail: string; since: string | null; advice: string }
type Ready = { status: string | number; version?: string; problems?: Finding[] }
type Examined = { gateway: { reached: boolean; ready: boolean; version: string | null }; problems: Finding[] }
type Environment = Record<string, string | undefined>

const finding = (code: string, detail: string, advice: string): Finding => ({ code, detail, since: null, advice })

export function doctorCommand(program: Command, context: Context, environment: Environment): void {
  program
    .command('doctor')
    .description('what is wrong with the gateway and its database, and what to do; exits with 1 when anything is')
    .addHelpText(
      'after',
      '\nAsks the gateway with the key given. When no gateway answers and DATABASE_URL is set, asks the database itself.',
    )
    .action(async (_options: unknown, command: Command) => {
      const { client, out } = context(command)
      const { gateway, problems } = await examine(client, environment)
      const found = { ...gateway, problems: [...configurationProblems(environment), ...problems] }
      await out.data(found, () => inWords({ gateway, problems: found.problems }))
      const { length } = found.problems
      if (length > 0) throw new CliError(1, `${length} ${length === 1 ? 'problem' : 'problems'}`)
    })
}

async function examine(client: Client, environment: Environment): Promise<Examined> {
  let answer: Response
  try {
    answer = await client.call('GET', '/readyz', { query: { verbose: 'true' }, anyStatus: true })
  } catch (error) {
    if (!(error instanceof CliError) || error.exitCode !== 3) throw error
    return {
      gateway: { reached: false, ready: false, version: null },
      problems: [
        finding('gateway_unreachable', error.message, 'Start it, or name another with --url or POSTERN_URL.'),
        ...(await askDatabase(environment)),
      ],
    }
  }
  const said = (await answer.json().catch(() => ({ status: answer.status }))) as Ready
  const gateway = { reached: true, ready: answer.ok, version: said.version ?? null }
  return { gateway, problems: [...(said.problems ?? []), ...ownFindings(answer.status, said)] }
}

/** What the answer itself gives away. */
function ownFindings(status: number, said: Ready): Finding[] {
  const found: Finding[] = []
  if (status === 401)
    found.push(finding('key_refused', 'The gateway does not know this key.', 'Give one with --key or POSTERN_KEY.'))
  else if (said.problems === undefined)
    found.push(
      status === 200 || status === 503
        ? finding('key_missing', 'Without a key the gateway tells no details.', 'Give one with --key or POSTERN_KEY.')
        : finding('not_a_gateway', `What answers there says ${status}.`, 'Check --url: is it a Postern gateway?'),
    )
  if (status === 503 && said.problems === undefined)
    found.push(finding('not_ready', 'The gateway is not ready.', 'Ask again with a key to see why.'))
  if (said.version !== undefined && said.version !== version)
    found.push(
      finding(
        'version_differs',
        `The gateway is ${said.version}, this command ${version}.`,
        'Use the command of the same release.',
      ),
    )
  return found
}

async function askDatabase(environment: Environment): Promise<Finding[]> {
  const databaseUrl = environment.DATABASE_URL
  if (!databaseUrl) return []
  const { connect } = await import('../store/index.ts')
  const { databaseProblems } = await import('../broker/index.ts')
  const db = connect({ databaseUrl, pool: 2, prepare: environment.DATABASE_PREPARE !== 'false' })
  try {
    const found = await databaseProblems(db, true)
    return found.map((each) => ({ ...each, since: each.since?.toISOString() ?? null }))
  } finally {
    await db.close()
  }
}

function configurationProblems(environment: Environment): Finding[] {
  try {
    loadConfig(environment, { tty: false })
    return []
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.problems.map((detail) => finding('configuration', detail, 'See "postern config" for every setting.'))
  }
}

function inWords({ gateway, problems }: Examined): string {
  const name = gateway.version === null ? 'The gateway' : `The gateway (${gateway.version})`
  const standing = !gateway.reached ? 'No gateway answers.' : `${name} is ${gateway.ready ? 'ready' : 'not ready'}.`
  const parts = problems.map(({ code, detail, since, advice }) => {
    const from = since === null ? '' : ` (since ${since})`
    return `\n${code}${from}\n  ${detail}\n  → ${advice}`
  })
  return [standing, ...(problems.length === 0 ? ['Nothing is wrong.'] : parts)].join('\n')
}
