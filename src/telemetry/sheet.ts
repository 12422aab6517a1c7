/** The numbers behind the metrics, and their text. What counts them holds on to a cell, so that counting is an addition. */
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import { type Histogram, histogram } from '../base/index.ts'
import { type Metric, type MetricName, metrics } from './metrics.ts'

export type Cell = { value: number }

export type Sheet = {
  /** Of a counter or a gauge; made with 0 when it is new. Labels in the order of the list. */
  cell(name: MetricName, ...labels: string[]): Cell
  /** Of a histogram. */
  histogram(name: MetricName, ...labels: string[]): Histogram
  /** All of a gauge anew: what is not given is gone. */
  replace(name: MetricName, values: Iterable<readonly [labels: readonly string[], value: number]>): void
  /** Whatever carries this label. */
  remove(label: string, value: string): void
  /** In Prometheus's text format. */
  print(): Promise<{ type: string; text: string }>
}

type Row = { labels: Record<string, string>; value: number; histogram: Histogram | null }
type Sample = { labels: Record<string, string | number>; value: number; metricName?: string }

/** Of the process itself the library knows more than is served. */
const prefix = 'postern_'

export function createSheet(): Sheet {
  const rows = new Map<MetricName, Map<string, Row>>()
  const registry = new Registry()
  const library = new Registry()
  collectDefaultMetrics({
    register: library,
    prefix,
    gcDurationBuckets: [...(metrics.postern_nodejs_gc_duration_seconds.buckets ?? [])],
  })
  let ofProcess = new Map<string, Sample[]>()

  for (const [name, metric] of Object.entries(metrics) as [MetricName, Metric][]) {
    rows.set(name, new Map())
    // The library prints; the numbers are ours.
    const printed = new Gauge({ name, help: metric.help, registers: [registry] })
    const get = async () => ({ name, help: metric.help, type: metric.type, aggregator: 'sum', values: samples(name) })
    Object.assign(printed, { get })
  }

  function samples(name: MetricName): Sample[] {
    const given = ofProcess.get(name)
    return given ?? [...(rows.get(name)?.values() ?? [])].flatMap((row) => samplesOf(name, row))
  }

  function row(name: MetricName, values: readonly string[]): Row {
    const all = rows.get(name) ?? new Map<string, Row>()
    const key = values.join('\n')
    let found = all.get(key)
    if (!found) {
      const metric: Metric = metrics[name]
      const labels = Object.fromEntries(metric.labels.map((label, at) => [label, values[at] ?? '']))
      found = { labels, value: 0, histogram: metric.buckets ? histogram(metric.buckets) : null }
      all.set(key, found)
    }
    return found
  }

  return {
    cell: (name, ...labels) => row(name, labels),
    histogram(name, ...labels) {
      const { histogram } = row(name, labels)
      if (!histogram) throw new Error(`${name} is no histogram`)
      return histogram
    },
    replace(name, values) {
      rows.get(name)?.clear()
      for (const [labels, value] of values) row(name, labels).value += value
    },
    remove(label, value) {
      for (const all of rows.values()) for (const [key, { labels }] of all) if (labels[label] === value) all.delete(key)
    },
    async print() {
      const own = await library.getMetricsAsJSON()
      ofProcess = new Map(own.map((metric) => [metric.name, metric.values as Sample[]]))
      return { type: registry.contentType, text: await registry.metrics() }
    },
  }
}

function samplesOf(name: MetricName, { labels, value, histogram }: Row): Sample[] {
  if (!histogram) return [{ labels, value }]
  let sum = 0
  const buckets = histogram.counts.map((count, at): Sample => {
    sum += count
    return { metricName: `${name}_bucket`, labels: { ...labels, le: histogram.bounds[at] ?? '+Inf' }, value: sum }
  })
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels, value: histogram.sum },
    { metricName: `${name}_count`, labels, value: sum },
  ]
}
