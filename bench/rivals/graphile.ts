/**
 * graphile-worker as its page on performance sets it for its own figures (https://worker.graphile.org/docs/performance): 24 jobs at
 * once over a pool of 25, a local queue of 500, completions in batches without delay; `addJobs` for batches. A job counts as done
 * when its task has run; its deletion follows, which is in its favour.
 */
import { Logger, makeWorkerUtils, type Runner, run, type TaskList, type WorkerUtils } from 'graphile-worker'
import { body, once } from '../place.ts'
import { type Contender, createGate, type Gate, inPieces, lineName, type Standing } from './contender.ts'
import { turns } from './postern.ts'

const payload = { body: body.toString() }
const quiet = new Logger(() => () => {})

export const graphile: Contender = {
  name: 'graphile-worker',
  costs: {},
  async open(place, { queues }) {
    const database = await place.database(lineName())
    const preset = {
      worker: {
        connectionString: database.url,
        concurrentJobs: 24,
        maxPoolSize: 25,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    }
    const utils = await makeWorkerUtils({ preset, logger: quiet })
    await utils.migrate()
    const names = Array.from({ length: queues }, (_, n) => `task-${n}`)
    const nameOf = turns(names)
    const gate = createGate()
    let runner: Runner | undefined
    /** Not before the first cycle: a line that only sends has nobody who looks. */
    const running = once(async () => {
      runner = await run({ preset, logger: quiet, noHandleSignals: true, taskList: tasks(names, gate) })
    })
    return {
      databaseUrl: database.url,
      send: (count) => add(utils, nameOf(), count),
      async cycle(count) {
        await running()
        await add(utils, nameOf(), count)
        await gate.grant(count)
        return count
      },
      stand: (kind, count) => stand(utils, kind, count),
      purge: () => utils.withPgClient((client) => client.query('delete from graphile_worker._private_jobs')),
      async close() {
        const stopping = runner?.stop()
        // It waits for the jobs that wait at the gate.
        gate.open()
        await stopping
        await utils.release()
        await database.drop()
      },
    }
  },
}

function tasks(names: readonly string[], gate: Gate): TaskList {
  async function task(): Promise<void> {
    await gate.enter()
    gate.done()
  }
  return Object.fromEntries(names.map((name) => [name, task]))
}

async function add(utils: WorkerUtils, identifier: string, count: number, runAt?: Date): Promise<number> {
  if (count === 1) await utils.addJob(identifier, payload, runAt ? { runAt } : {})
  else await utils.addJobs(Array.from({ length: count }, () => ({ identifier, payload, ...(runAt ? { runAt } : {}) })))
  return count
}

/** Leased: locked as a worker locks them, by one that never ends. */
async function stand(utils: WorkerUtils, kind: Standing, count: number): Promise<void> {
  const runAt = kind === 'delayed' ? new Date(Date.now() + 86_400_000) : undefined
  await inPieces(count, 5000, 4, (piece) => add(utils, 'task-0', piece, runAt))
  if (kind === 'leased')
    await utils.withPgClient((client) =>
      client.query(
        "update graphile_worker._private_jobs set attempts = attempts + 1, locked_by = 'standing', locked_at = now()",
      ),
    )
}
