/** A gateway with all that watches it: metrics, and webhooks to any address. */
import type { Broker } from '../../src/broker/index.ts'
import { createPush, type Push } from '../../src/push/index.ts'
import { createTelemetry, type Telemetry } from '../../src/telemetry/index.ts'
import { type TestApp, testApp } from './app.ts'
import { eventually } from './postgres.ts'

export type Watched = TestApp & { push: Push; telemetry: Telemetry; scrape(): Promise<Scraped> }

export type Scraped = {
  text: string
  /** The value of one series by its name and some of its labels; their sum when several have them; undefined: there is none. */
  value(name: string, labels?: Record<string, string>): number | undefined
  series: Series[]
}
export type Series = { name: string; labels: Record<string, string>; value: number }

type Options = Parameters<typeof testApp>[0] & {
  labelsMost?: number
  /** Takes the events of the broker and of push. */
  events?: (event: string, fields?: Record<string, unknown>) => void
}

export async function watched(options: Options = {}): Promise<Watched> {
  const { labelsMost = 200, events = () => {}, ...given } = options
  const telemetry = createTelemetry({ version: 'test', labelsMost, patienceMs: 20_000 })
  const { observe, scrape } = telemetry
  const app = await testApp({
    observe,
    metrics: scrape,
    ofBroker: { observe, tracing: given.tracing, log: events },
    ...given,
  })
  const { broker } = app
  const push = createPush({
    broker,
    allowPrivate: true,
    version: 'test',
    observe,
    tracing: given.tracing,
    log: events,
  })
  telemetry.attach({ broker: { ...broker.watch, queues: () => freshCounts(broker) }, webhooks: push.webhooks })
  return {
    ...app,
    push,
    telemetry,
    scrape: async () => scraped((await telemetry.scrape()).text),
    async stop() {
      await push.stop(0)
      await app.stop()
    },
  }
}

/** Not those that were taken before they were asked for. */
async function freshCounts({ watch }: Broker): ReturnType<Broker['watch']['queues']> {
  const askedMs = performance.now()
  return await eventually(async () => {
    const counts = await watch.queues()
    return performance.now() - counts.ageMs >= askedMs && counts
  })
}

export function scraped(text: string): Scraped {
  const series = text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map(seriesFrom)
  return {
    text,
    series,
    value(name, wanted = {}) {
      const found = series.filter(
        (each) => each.name === name && Object.entries(wanted).every(([label, value]) => each.labels[label] === value),
      )
      return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0)
    },
  }
}

function seriesFrom(line: string): Series {
  const [, name = '', labels = '', value = ''] = /^([a-z_0-9]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? []
  if (name === '') throw new Error(`not a line of metrics: ${line}`)
  return {
    name,
    labels: Object.fromEntries([...labels.matchAll(/([a-z_]+)="([^"]*)"/g)].map((match) => [match[1], match[2]])),
    value: Number(value.replace('Inf', 'Infinity').replace('Nan', 'NaN')),
  }
}
