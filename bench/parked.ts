/** Ten thousand long polls parked on one gateway: what each costs it in memory, what they cost Postgres, and what others feel of them. */
import { type Child, startChild } from './child.ts'
import { clientOf, sharedGateway } from './gateway.ts'
import { pull, timesOf } from './latency.ts'
import { residentBytes } from './meter.ts'
import { type Place, sleep } from './place.ts'
import { latencyRow, type Part, type Table } from './rounds.ts'

const polls = 10_000
const queues = 100
const idleMs = 5_000
const quietWithinS = 30
const latencyCount = 2000
const patienceMs = 120_000

export const parkedNames = {
  bytes: 'parked  KB for each poll',
  transactions: 'parked  transactions a second while idle, more than without',
  slower: 'parked  p99 of others, over that without',
}

export const parkedPart = (place: Place): Part => ({
  title: '',
  scenarios: [],
  latencies: [],
  studies: [{ name: `parked  ${polls} long polls`, measure: () => measure(place) }],
  ratios: [],
})

async function measure(place: Place): Promise<Table> {
  const gateway = await sharedGateway(place)
  const admin = clientOf(gateway.url, 1)
  for (let n = 0; n < queues; n++) await admin.putQueue(`parked-${n}`)
  await admin.close()
  const other = pull('parked-others', 'others')
  const before = latencyRow('alone', await timesOf(place, other, latencyCount))
  const bytesBefore = await memoryOf(gateway)
  const alone = await idleCost(place, gateway)
  const clients = await startChild('./parked_process.ts', [gateway.url, String(polls), String(queues)])
  place.closing.push(() => clients.stop())
  const untilMs = performance.now() + patienceMs
  while ((await clients.ask<number>('parked')) < polls) {
    if (performance.now() > untilMs) throw new Error('the polls do not park')
    await sleep(200)
  }
  await quiet(place, alone.transactions)
  const bytesAfter = await memoryOf(gateway)
  const idle = await idleCost(place, gateway)
  const during = latencyRow('beside', await timesOf(place, other, latencyCount))
  await clients.stop()
  const kilobytes = (bytesAfter.resident - bytesBefore.resident) / polls / 1024
  const heapKilobytes = (bytesAfter.heap - bytesBefore.heap) / polls / 1024
  return {
    title: `${polls} long polls parked on one gateway, over ${queues} queues`,
    columns: ['', 'alone', 'with them'],
    rows: [
      ['gateway, resident MB', bytesBefore.resident / 2 ** 20, bytesAfter.resident / 2 ** 20],
      ['KB resident for each poll, its connection included', null, kilobytes],
      ['KB of JavaScript heap for each', null, heapKilobytes],
      ['idle: transactions/s', alone.transactions, idle.transactions],
      ['idle: Postgres CPU, ms/s', alone.databaseMs, idle.databaseMs],
      ['idle: gateway CPU, ms/s', alone.gatewayMs, idle.gatewayMs],
      ['others at 200/s: p50 ms', before.p50, during.p50],
      ['others at 200/s: p99 ms', before.p99, during.p99],
      ['others at 200/s: p99.9 ms', before.p999, during.p999],
    ],
    values: {
      [parkedNames.bytes]: kilobytes,
      [parkedNames.transactions]: idle.transactions - alone.transactions,
      [parkedNames.slower]: during.p99 / before.p99,
    },
  }
}

async function memoryOf(gateway: Child): Promise<{ resident: number; heap: number }> {
  const { rss, heapUsed } = await gateway.ask<{ rss: number; heapUsed: number }>('memory')
  return { resident: residentBytes(gateway.pid) ?? rss, heap: heapUsed }
}

/** Until nobody's first look is under way any more, and long before the first wait is over. */
async function quiet(place: Place, usualPerSecond: number): Promise<void> {
  for (let tries = 0; tries < quietWithinS; tries++) {
    const from = await commits(place)
    await sleep(1000)
    if ((await commits(place)) - from < usualPerSecond * 1.5 + 10) return
  }
  throw new Error('The gateway goes on asking while all polls are parked.')
}

async function commits({ sql }: Place): Promise<number> {
  const [row] = await sql<{ n: number }[]>`select sum(xact_commit)::float8 as n from pg_stat_database`
  return row?.n ?? 0
}

async function idleCost(place: Place, gateway: Child) {
  const [from, commitsFrom] = [await place.meter.read([gateway.pid]), await commits(place)]
  await sleep(idleMs)
  const [to, commitsTo] = [await place.meter.read([gateway.pid]), await commits(place)]
  const perSecond = (a: number | null, b: number | null): number => (((b ?? 0) - (a ?? 0)) / idleMs) * 1000
  return {
    transactions: perSecond(commitsFrom, commitsTo),
    databaseMs: perSecond(from.databaseS, to.databaseS) * 1000,
    gatewayMs: perSecond(from.servingS, to.servingS) * 1000,
  }
}
