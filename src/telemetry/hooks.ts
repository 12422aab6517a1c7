/** What happens, counted as it happens. Who calls often finds its cell in a map of its own. */
import { type Histogram, observe } from '../base/index.ts'
import { fireOutcomes, type Observe, publishOutcomes } from '../model/index.ts'
import type { Labels } from './labels.ts'
import type { MetricName } from './metrics.ts'
import type { Cell, Sheet } from './sheet.ts'

type Hooks = Pick<
  Observe,
  'statement' | 'gathered' | 'swept' | 'published' | 'fired' | 'request' | 'requesting' | 'attempt'
>

/** A client may ask with any word. */
const methods = new Map(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'].map((name, at) => [name, at]))
const otherMethod = methods.size
/** Of one route; counts by status and method in one number, which is found four times as fast as in a text. */
type Route = { times: Histogram; counts: Map<number, Cell> }

export function createHooks(sheet: Sheet, subscriptions: Labels): Hooks {
  const statements = histogramsOf(sheet, 'postern_database_statement_seconds')
  const batches = histogramsOf(sheet, 'postern_batch_calls')
  const routes = new Map<string, Route>()
  const sweeps = sheet.histogram('postern_mark_sweep_seconds')
  const underWay = sheet.cell('postern_http_requests_under_way')
  const publishes = cellsOf(publishOutcomes, (outcome) => sheet.cell('postern_publishes_total', outcome))
  const fires = cellsOf(fireOutcomes, (outcome) => sheet.cell('postern_schedule_fires_total', outcome))

  return {
    statement(name, durationMs, outcome) {
      observe(statements(name), durationMs / 1000)
      if (outcome !== 'done') sheet.cell('postern_database_statement_failures_total', name, outcome).value++
    },
    gathered: (kind, calls) => observe(batches(kind), calls),
    swept: (durationMs) => observe(sweeps, durationMs / 1000),
    published: (outcome) => void publishes[outcome].value++,
    fired: (outcome) => void fires[outcome].value++,
    request(method, route, status, durationMs) {
      let of = routes.get(route)
      if (!of) {
        of = { times: sheet.histogram('postern_http_request_seconds', route), counts: new Map() }
        routes.set(route, of)
      }
      const word = methods.get(method) ?? otherMethod
      const key = status * (otherMethod + 1) + word
      let cell = of.counts.get(key)
      if (!cell) {
        cell = sheet.cell('postern_http_requests_total', word === otherMethod ? 'other' : method, route, String(status))
        of.counts.set(key, cell)
      }
      cell.value++
      observe(of.times, durationMs / 1000)
    },
    requesting(change) {
      underWay.value += change
    },
    attempt({ subscription, status, verdict, durationMs, ageMs }) {
      const label = subscriptions.of(subscription)
      const answer = status === null ? 'none' : `${Math.floor(status / 100)}xx`
      sheet.cell('postern_webhook_attempts_total', label, answer, verdict).value++
      observe(sheet.histogram('postern_webhook_attempt_seconds', label), durationMs / 1000)
      if (verdict === 'settle')
        observe(sheet.histogram('postern_webhook_delivery_seconds', label), Math.max(0, ageMs) / 1000)
    },
  }
}

/** All of them at once: of a series that begins with 1 nobody sees an increase. */
const cellsOf = <Name extends string>(names: readonly Name[], cell: (name: Name) => Cell): Record<Name, Cell> =>
  Object.fromEntries(names.map((name) => [name, cell(name)])) as Record<Name, Cell>

/** One for each value of the only label. */
function histogramsOf(sheet: Sheet, name: MetricName): (label: string) => Histogram {
  const found = new Map<string, Histogram>()
  return (label) => {
    let histogram = found.get(label)
    if (!histogram) {
      histogram = sheet.histogram(name, label)
      found.set(label, histogram)
    }
    return histogram
  }
}
