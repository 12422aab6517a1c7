/** One publish to ten queues by 256 callers, beside what the rivals have for it. Copies are counted. */
import { connect } from 'amqplib'
import PgBoss from 'pg-boss'
import { body, message, once, type Place } from './place.ts'
import { lineName } from './rivals/contender.ts'
import { graphile } from './rivals/index.ts'
import { rabbitPlace, rabbits } from './rivals/rabbit.ts'
import { calling, type Part, type Scenario } from './rounds.ts'

const callers = 256
const copies = 10

/** Stores `copies` messages with one call; how many. `purge` between rounds. */
type Publisher = { publish(): Promise<number>; purge(): Promise<unknown>; close(): Promise<unknown> }
type Fan = Pick<Scenario, 'serving' | 'elsewhere'> & { name: string; open(place: Place): Promise<Publisher> }

export function fanOutPart(place: Place): Part {
  const fans = [posternFan, pgBossFan, graphileFan, ...rabbitFans()].map((fan) => ({
    ...fan,
    opened: once(() => fan.open(place)),
  }))
  let used: Publisher[] = []
  return {
    title: `copies per second, ${copies} of each publish`,
    scenarios: fans.map(({ name, opened, open: _open, ...costs }) => ({
      name: `fan-out  publish to ${copies} x ${callers}, ${name}`,
      async prepare() {
        const publisher = await opened()
        if (!used.includes(publisher)) used = [...used, publisher]
      },
      run: async (roundMs) => await calling({ callers, call: (await opened()).publish }, roundMs),
      tidy: async () => (await opened()).purge(),
      ...costs,
    })),
    latencies: [],
    ratios: [],
    close: () => Promise.all(used.map((publisher) => publisher.close())),
  }
}

const names = Array.from({ length: copies }, (_, n) => `fan-out-${n}`)

const posternFan: Fan = {
  name: 'Postern',
  async open({ broker: { admin, publish } }) {
    await admin.putTopic('fan-out', {})
    for (const queue of names) {
      await admin.putQueue(queue, {})
      await admin.putBinding('fan-out', queue, { queue, pattern: '#', filter: null })
    }
    return {
      publish: async () => (await publish('fan-out', 'key', message)).matched,
      purge: () => Promise.all(names.map((name) => admin.purgeQueue(name, ['ready']))),
      close: async () => {},
    }
  },
}

/** `publish` sends to each subscribed queue by a statement of its own. */
const pgBossFan: Fan = {
  name: 'pg-boss, publish',
  async open(place) {
    const database = await place.database(lineName())
    const boss = new PgBoss({ connectionString: database.url, max: 10, schedule: false })
    boss.on('error', (error) => console.error('pg-boss:', error.message))
    await boss.start()
    for (const name of names) {
      await boss.createQueue(name)
      await boss.subscribe('event', name)
    }
    return {
      async publish() {
        await boss.publish('event', { body: body.toString() })
        return copies
      },
      purge: () => Promise.all(names.map((name) => boss.purgeQueue(name))),
      async close() {
        await boss.stop({ graceful: false, wait: true })
        await database.drop()
      },
    }
  },
}

/** It has no topics: one `addJobs` of ten is the nearest. */
const graphileFan: Fan = {
  name: 'graphile-worker, addJobs of 10',
  async open(place) {
    const line = await graphile.open(place, { queues: copies })
    return { publish: () => line.send(copies), purge: () => line.purge(), close: () => line.close() }
  },
}

const rabbitFans = (): Fan[] =>
  rabbits().map(({ name, costs }) => ({
    name: `${name}, fanout exchange`,
    ...costs,
    async open(place) {
      const { url } = await rabbitPlace(place)
      const connection = await connect(url)
      const channels = await Promise.all(Array.from({ length: 4 }, () => connection.createConfirmChannel()))
      const [first] = channels
      const exchange = lineName()
      await first?.assertExchange(exchange, 'fanout', { durable: true })
      const queues = names.map((queue) => `${exchange}-${queue}`)
      for (const queue of queues) {
        await first?.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': name.split(' ')[1] } })
        await first?.bindQueue(queue, exchange, '')
      }
      let turn = 0
      return {
        publish: () =>
          new Promise((resolve, reject) => {
            channels[turn++ % channels.length]?.publish(exchange, '', body, { persistent: true }, (error: unknown) =>
              error ? reject(error) : resolve(copies),
            )
          }),
        purge: () => Promise.all(queues.map((queue) => first?.purgeQueue(queue))),
        async close() {
          for (const queue of queues) await first?.deleteQueue(queue)
          await connection.close()
        },
      }
    },
  }))
