/** Runs a gateway in this process until it is told to stop. */
import { createApp } from './app.ts'
import { type Config, ConfigError, loadConfig, processEnv } from './config.ts'
import { createLog } from './log.ts'

/** Exit codes: 0 stopped, 1 failed, 78 the configuration is wrong (EX_CONFIG of sysexits.h). */
export async function serve(): Promise<void> {
  let config: Config
  try {
    config = loadConfig(processEnv(), { tty: process.stdout.isTTY === true })
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`Postern cannot start:\n${error.problems.map((problem) => `  ${problem}\n`).join('')}`)
    process.exit(78)
  }
  const log = createLog(config)
  const app = createApp(config, { log })
  let stops = 0

  async function stop(signal: NodeJS.Signals): Promise<void> {
    if (++stops > 1) process.exit(signal === 'SIGINT' ? 130 : 143)
    log.event('stopping', { signal })
    await app.stop()
    log.event('stopped')
    process.exit(0)
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))
  for (const kind of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(kind, (error) => {
      log.fatal(kind, { error })
      process.exit(1)
    })
  }

  try {
    const { url, dataDir } = await app.start()
    log.event('listening', { url, mode: config.localMode ? 'local' : 'database', open: config.open })
    // Where a machine reads the log, the line above says it all.
    if (config.localMode || config.logFormat === 'pretty') process.stdout.write(banner(url, dataDir, config))
  } catch (error) {
    // Told to stop while starting: that ends the process.
    if (stops > 0) return
    const advice = portAdvice(error, config)
    if (advice) process.stderr.write(`${advice}\n`)
    else log.fatal('cannot start', { error })
    await app.stop()
    process.exit(1)
  }
}

/** The two ways in which a port cannot be had, in words; null for any other error. */
function portAdvice(error: unknown, { host, port }: Config): string | null {
  const code =
    error instanceof Error && 'syscall' in error && error.syscall === 'listen' && 'code' in error && error.code
  if (code === 'EADDRINUSE') return `Port ${port} is in use: choose another with PORT=${(port % 65_535) + 1} npm start`
  if (code === 'EACCES') return `Port ${port} needs more rights than this process has: choose another with PORT=7070`
  if (code === 'EADDRNOTAVAIL') return `This machine has no address ${host}: set HOST to one that it has.`
  return null
}

function banner(url: string, dataDir: string | null, config: Config): string {
  const address = url.replace('http://127.0.0.1', 'localhost')
  const key = config.open ? '' : ' -H "Authorization: Bearer $POSTERN_ROOT_KEY"'
  const mode = config.localMode ? 'local mode, a Postgres of its own' : 'on your Postgres'
  return `
  Postern listens on ${url}  (${mode}; ${config.open ? 'no key needed' : 'a key is needed'})
  ${dataDir ? `Data: ${dataDir}\n  ` : ''}API: ${url}/docs   Stop: Ctrl-C

    curl -X PUT ${address}/v1/queues/orders${key}
    curl ${address}/v1/queues/orders/messages${key} -d '{"id":1}'
    curl -X POST '${address}/v1/queues/orders/receive?wait=20s'${key}

`
}
