/**
 * RabbitMQ with durable queues, persistent messages, publisher confirms and manual acks, which is what its guide asks for data
 * safety (https://www.rabbitmq.com/docs/confirms); a prefetch of 500 and acks of several at once, as the same page advises for
 * throughput; a connection and channel for publishing apart from the one that consumes
 * (https://www.rabbitmq.com/docs/channels). Classic and quorum queues, one node.
 */
import { type ChannelModel, type ConfirmChannel, type ConsumeMessage, connect } from 'amqplib'
import { perPlace } from '../gateway.ts'
import { body, type Place } from '../place.ts'
import { type Contender, createGate, type Gate, inPieces, type Line, lineName } from './contender.ts'
import { turns } from './postern.ts'
import { findRabbit, startRabbit } from './rabbit_server.ts'

const prefetch = 500
const publishers = 4

export const rabbitPlace = perPlace(async (place) => {
  const file = findRabbit()
  if (file === null) throw new Error('RabbitMQ is not installed.')
  return await startRabbit(place, file)
})

let serverPid = 0

/** None where RabbitMQ is not installed. */
export const rabbits = (): Contender[] =>
  findRabbit() === null
    ? []
    : (['classic', 'quorum'] as const).map((type) => ({
        name: `RabbitMQ ${type}`,
        open: (place, { queues }) => openLine(place, type, queues),
        costs: { serving: () => [serverPid], elsewhere: true },
      }))

async function openLine(place: Place, type: 'classic' | 'quorum', queues: number): Promise<Line> {
  const server = await rabbitPlace(place)
  serverPid = server.pid
  const sending = await connect(server.url)
  const taking = await connect(server.url)
  const channels = await Promise.all(Array.from({ length: publishers }, () => sending.createConfirmChannel()))
  const line = lineName()
  const names = Array.from({ length: queues }, (_, n) => `${line}-${n}`)
  for (const name of names) await channels[0]?.assertQueue(name, { durable: true, arguments: { 'x-queue-type': type } })
  const nameOf = turns(names)
  const gate = createGate()
  let consuming: Promise<void> | undefined
  let turn = 0
  const publish = (name: string, count: number): Promise<unknown> => {
    const channel = channels[turn++ % channels.length]
    return channel ? Promise.all(Array.from({ length: count }, () => confirmed(channel, name))) : Promise.resolve()
  }
  return {
    databaseUrl: null,
    async send(count) {
      await publish(nameOf(), count)
      return count
    },
    async cycle(count) {
      consuming ??= consume(taking, names, gate)
      await consuming
      await publish(nameOf(), count)
      await gate.grant(count)
      return count
    },
    stand: (_kind, count) => inPieces(count, 1000, 4, (piece) => publish(names[0] ?? '', piece)),
    purge: () => Promise.all(names.map((name) => channels[0]?.purgeQueue(name))),
    async close() {
      for (const name of names) await channels[0]?.deleteQueue(name)
      await Promise.all([sending.close(), taking.close()])
    },
  }
}

const confirmed = (channel: ConfirmChannel, queue: string): Promise<void> =>
  new Promise((resolve, reject) =>
    channel.sendToQueue(queue, body, { persistent: true, contentType: 'text/plain' }, (error: unknown) =>
      error ? reject(error) : resolve(),
    ),
  )

/** One ack for all that went through in one turn of the event loop; they go through in the order of their delivery tags. */
async function consume(taking: ChannelModel, names: readonly string[], gate: Gate): Promise<void> {
  const channel = await taking.createChannel()
  await channel.prefetch(prefetch)
  let through: ConsumeMessage[] = []
  function ackAll(): void {
    const [last, count] = [through.at(-1), through.length]
    through = []
    if (last) channel.ack(last, true)
    gate.done(count)
  }
  for (const name of names)
    await channel.consume(name, async (message) => {
      if (message === null) return
      await gate.enter()
      if (through.push(message) === 1) setImmediate(ackAll)
    })
}
