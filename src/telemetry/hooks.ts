/** What happens, counted as it happens. Who calls often finds its cell in a map of its own. */
import { type Histogram, observe } from '../base/index.ts'
import type { Observe } from '../model/index.ts'
import type { Labels } from './labels.ts'
import type { MetricName } from './metrics.ts'
import type { Cell, Sheet } from './sheet.ts'

type Hooks = Pick<Observe, 'statement' | 'gathered' | 'swept' | 'request' | 'requesting' | 'attempt'>

/** A client may ask with any word. */
const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

export function createHooks(sheet: Sheet, subscriptions: Labels): Hooks {
  const statements = histogramsOf(sheet, 'postern_database_statement_seconds')
  const batches = histogramsOf(sheet, 'postern_batch_calls')
  const routes = histogramsOf(sheet, 'postern_http_request_seconds')
  const requests = new Map<string, Cell>()
  const sweeps = sheet.histogram('postern_mark_sweep_seconds')
  const underWay = sheet.cell('postern_http_requests_under_way')

  return {
    statement(name, durationMs, outcome) {
      observe(statements(name), durationMs / 1000)
      if (outcome !== 'done') sheet.cell('postern_database_statement_failures_total', name, outcome).value++
    },
    gathered: (kind, calls) => observe(batches(kind), calls),
    swept: (durationMs) => observe(sweeps, durationMs / 1000),
    request(method, route, status, durationMs) {
      const key = `${status} ${method} ${route}`
      let cell = requests.get(key)
      if (!cell) {
        const known = methods.has(method)
        cell = sheet.cell('postern_http_requests_total', known ? method : 'other', route, String(status))
        if (known) requests.set(key, cell)
      }
      cell.value++
      observe(routes(route), durationMs / 1000)
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
