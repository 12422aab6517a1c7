/** Brokers on a test database, and short words for what tests do with them. */
import { type Broker, type BrokerOptions, createBroker } from '../../src/broker/index.ts'
import type { Delivery, NewMessage, SettleAction, SettleOutcome } from '../../src/model/index.ts'
import { type TestDatabase, testDatabase } from './postgres.ts'

export type Bench = {
  db: TestDatabase
  brokers: Broker[]
  stop(): Promise<void>
}

/** `count` gateways' worth of brokers side by side. */
export async function brokersOn(count: number, pool = 6): Promise<Bench> {
  const db = await testDatabase()
  const brokers = Array.from({ length: count }, () => brokerOn(db.url, pool))
  await Promise.all(brokers.map((broker) => broker.start()))
  return {
    db,
    brokers,
    async stop() {
      await Promise.all(brokers.map((broker) => broker.stop(1000)))
      await db.drop()
    },
  }
}

export const brokerOn = (databaseUrl: string, pool = 6, more: Partial<BrokerOptions> = {}): Broker =>
  createBroker({
    databaseUrl,
    listenUrl: null,
    pool,
    prepare: true,
    upkeep: true,
    maxWaiting: 50_000,
    log: () => {},
    ...more,
  })

export const message = (body: string, more: Partial<NewMessage> = {}): NewMessage => ({
  body: Buffer.from(body),
  contentType: 'text/plain',
  headers: null,
  key: null,
  priority: 5,
  delayMs: null,
  deliverAtMs: null,
  ttlMs: null,
  dedupId: null,
  ...more,
})

/** Sends and returns the ids; throws what any message threw. */
export async function send(broker: Broker, queue: string, ...messages: (string | NewMessage)[]): Promise<string[]> {
  const sent = await broker.send(
    queue,
    messages.map((item) => (typeof item === 'string' ? message(item) : item)),
  )
  return sent.map((each) => {
    if (each instanceof Error) throw each
    return each.id
  })
}

type ReceiveMore = { waitMs?: number; leaseMs?: number; signal?: AbortSignal }

export async function receive(
  broker: Broker,
  queue: string,
  max = 1,
  { waitMs = 0, leaseMs, signal }: ReceiveMore = {},
): Promise<Delivery[]> {
  const options = { max, waitMs, leaseMs: leaseMs ?? null, signal: signal ?? new AbortController().signal }
  return (await broker.receive(queue, options)).messages
}

export async function settle(broker: Broker, ...actions: SettleAction[]): Promise<SettleOutcome[]> {
  return (await broker.settle(actions, { queue: null, may: () => true })).map((each) => each.outcome)
}

export const ack = (broker: Broker, ...deliveries: Delivery[]): Promise<SettleOutcome[]> =>
  settle(broker, ...deliveries.map(({ receipt }) => ({ action: 'ack' as const, receipt })))

export const bodies = (deliveries: readonly Delivery[]): string[] => deliveries.map((each) => each.body.toString())
