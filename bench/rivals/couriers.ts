/** The rivals as bearers of single messages to whoever waits for them, each by its own workers. */
import { connect } from 'amqplib'
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import PgBoss from 'pg-boss'
import type { Place } from '../place.ts'
import { lineName } from './contender.ts'
import { rabbitPlace } from './rabbit.ts'

export type Courier = {
  name: string
  /** `arrived` is told each message's number, and when by the shared clock if that was not now. */
  open(
    place: Place,
    arrived: (number: number, atMs?: number) => void,
  ): Promise<{
    send(number: number): Promise<unknown>
    /** Where arrivals are noted elsewhere: tells of those since it was last asked. */
    collect?(): Promise<void>
    close(): Promise<unknown>
  }>
}

type Numbered = { number: number; body: string }
const dataOf = (number: number): Numbered => ({ number, body: 'x'.repeat(180) })

/** Its workers poll; half a second is the shortest interval that it takes (docs/readme.md of 10.4, `pollingIntervalSeconds`). */
export const pgBossCourier: Courier = {
  name: 'pg-boss, worker',
  async open(place, arrived) {
    const database = await place.database(lineName())
    const boss = new PgBoss({ connectionString: database.url, max: 10, schedule: false })
    boss.on('error', (error) => console.error('pg-boss:', error.message))
    await boss.start()
    await boss.createQueue('latency')
    const options = { batchSize: 1000, pollingIntervalSeconds: 0.5, priority: false }
    await boss.work<Numbered>('latency', options, async (jobs) => {
      for (const { data } of jobs) arrived(data.number)
    })
    return {
      send: (number) => boss.send('latency', dataOf(number)),
      async close() {
        await boss.stop({ graceful: false, wait: true })
        await database.drop()
      },
    }
  },
}

/** LISTEN wakes its workers; without the local queue, which delays when there is little. */
export const graphileCourier: Courier = {
  name: 'graphile-worker',
  async open(place, arrived) {
    const database = await place.database(lineName())
    const preset = { worker: { connectionString: database.url, concurrentJobs: 24, maxPoolSize: 25 } }
    const logger = new Logger(() => () => {})
    const utils = await makeWorkerUtils({ preset, logger })
    await utils.migrate()
    const taskList = { latency: async (payload: unknown) => arrived((payload as Numbered).number) }
    const runner = await run({ preset, logger, noHandleSignals: true, taskList })
    return {
      send: (number) => utils.addJob('latency', dataOf(number)),
      async close() {
        await runner.stop()
        await utils.release()
        await database.drop()
      },
    }
  },
}

export const rabbitCouriers: readonly Courier[] = (['classic', 'quorum'] as const).map((type) => ({
  name: `RabbitMQ ${type}`,
  async open(place, arrived) {
    const { url } = await rabbitPlace(place)
    const [sending, taking] = [await connect(url), await connect(url)]
    const [publisher, consumer] = [await sending.createConfirmChannel(), await taking.createChannel()]
    const name = lineName()
    await publisher.assertQueue(name, { durable: true, arguments: { 'x-queue-type': type } })
    await consumer.prefetch(500)
    await consumer.consume(name, (message) => {
      if (message === null) return
      arrived(Number(message.content))
      consumer.ack(message)
    })
    return {
      send: (number) =>
        new Promise((resolve, reject) => {
          const content = Buffer.from(String(number).padEnd(200, ' '))
          publisher.sendToQueue(name, content, { persistent: true }, (error: unknown) =>
            error ? reject(error) : resolve(null),
          )
        }),
      async close() {
        await publisher.deleteQueue(name)
        await Promise.all([sending.close(), taking.close()])
      },
    }
  },
}))
