/** What is deployed beside a gateway fits what the gateway says: rules, dashboard, the list for operators, and how they are wired up. */
import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { type Metric, metrics, metricsTable } from '../src/telemetry/index.ts'

const run = promisify(execFile)
const root = new URL('../', import.meta.url).pathname
const read = (name: string): string => readFileSync(`${root}${name}`, 'utf8')
const listed: Record<string, Metric> = metrics

/** What is wrong with an expression: metrics that are not served, or labels that they do not have. */
function wrongIn(expression: string): string[] {
  const wrong: string[] = []
  const labels = new Set(['le', 'instance', 'job'])
  const names = [...expression.matchAll(/\b(?:postern_\w+)(?:\{([^}]*)\})?/g)]
  for (const [found, matchers = ''] of names) {
    const name = found.replace(/\{.*/, '')
    const own = metricOf(name)
    if (!own) wrong.push(`no metric ${name}`)
    const has = ['instance', 'job', ...(own?.labels ?? [])]
    for (const label of own?.labels ?? []) labels.add(label)
    for (const [, label = ''] of matchers.matchAll(/(\w+)\s*=?[=~!]/g))
      if (!has.includes(label)) wrong.push(`${name} has no label ${label}`)
  }
  for (const [, by = ''] of expression.matchAll(/\bby \(([^)]*)\)/g))
    for (const label of by.split(',')) if (!labels.has(label.trim())) wrong.push(`by ${label.trim()}`)
  return wrong
}

/** A histogram has its parts only; everything else has none. */
function metricOf(name: string): Metric | undefined {
  const [, whole = ''] = /^(.*)_(?:bucket|sum|count)$/.exec(name) ?? []
  if (listed[whole]?.type === 'histogram') return listed[whole]
  return listed[name]?.type === 'histogram' ? undefined : listed[name]
}

type Rule = {
  alert: string
  expr: string
  for: string
  labels: { severity: string }
  annotations: { summary: string; runbook: string }
}
const rules = (parse(read('deploy/prometheus/alerts.yml')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (group) => group.rules,
)
type Panel = {
  id: number
  type: string
  title: string
  targets?: { expr: string }[]
  gridPos: Record<'x' | 'y' | 'w' | 'h', number>
}
const dashboard = JSON.parse(read('deploy/grafana/postern.json')) as {
  panels: Panel[]
  templating: { list: { name: string; definition?: string }[] }
}
const shown = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))

describe('alert rules', () => {
  test.each(rules.map((rule) => [rule.alert, rule] as const))(
    '%s asks for what is served, waits, and says what to do',
    (_, rule) => {
      expect(wrongIn(rule.expr)).toEqual([])
      expect(rule.for).toMatch(/^[1-9]\d*m$/)
      expect(['page', 'ticket']).toContain(rule.labels.severity)
      expect(rule.annotations.summary).toMatch(/\.$/)
      expect(rule.annotations.runbook).toMatch(/^[A-Z0-9].{30,}\.$/)
    },
  )

  test('cover what an operator is called for', () => {
    const names = rules.map(({ alert }) => alert)
    expect(new Set(names).size).toBe(names.length)
    const wanted = [
      'GatewayDown',
      'DatabaseDown',
      'ListenDown',
      'OldTransaction',
      'PoolExhausted',
      'OldestMessage',
      'QueueGrowing',
    ]
    const more = ['DeadLetters', 'WebhookCircuitOpen', 'WebhookDisabled', 'Errors', 'Memory']
    expect(names).toEqual(expect.arrayContaining([...wanted, ...more].map((name) => `Postern${name}`)))
  })

  const folder = `${root}deploy/prometheus`
  test.skipIf(!hasPromtool())('promtool takes them, and they fire when they should', async () => {
    await run('promtool', ['check', 'rules', 'alerts.yml'], { cwd: folder })
    await run('promtool', ['test', 'rules', 'alerts.test.yml'], { cwd: folder })
    await run('promtool', ['check', 'config', '--syntax-only', 'prometheus.yml'], { cwd: folder })
  })
})

describe('the dashboard', () => {
  test.each(dashboard.panels.map((panel) => [panel.title, panel] as const))(
    '%s asks for what is served',
    (_, { targets = [] }) => {
      for (const { expr } of targets) expect(wrongIn(expr), expr).toEqual([])
    },
  )

  test('shows every metric', () => {
    const all = [...shown, ...rules.map(({ expr }) => expr)].join(' ')
    const missing = Object.keys(listed).filter((name) => !new RegExp(`\\b${name}(_bucket|_sum|_count)?\\b`).test(all))
    expect(missing).toEqual([])
  })

  test('has panels of their own, in places of their own, and variables that exist', () => {
    const { panels, templating } = dashboard
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) => {
      expect(x + w).toBeLessThanOrEqual(24)
      return Array.from({ length: w * h }, (_, at) => `${x + (at % w)} ${y + Math.floor(at / w)}`)
    })
    expect(new Set(cells).size).toBe(cells.length)
    const names = ['__rate_interval', ...templating.list.map(({ name }) => name)]
    for (const [, name] of read('deploy/grafana/postern.json').matchAll(/\$\{?(\w+)\}?/g))
      if (name !== '__all') expect(names).toContain(name)
    for (const { definition } of templating.list) {
      const [, metric = '', label = ''] = /label_values\((\w+), (\w+)\)/.exec(definition ?? '') ?? []
      if (definition) expect(['instance', ...(metricOf(metric)?.labels ?? [])]).toContain(label)
    }
  })
})

test('an expression that asks for what is not there is found', () => {
  expect(wrongIn('rate(postern_nothing_total[5m])')).toEqual(['no metric postern_nothing_total'])
  expect(wrongIn('postern_database_up{queue="q"}')).toEqual(['postern_database_up has no label queue'])
  expect(wrongIn('sum by (queue) (postern_database_up)')).toEqual(['by queue'])
  expect(wrongIn('postern_batch_calls')).toEqual(['no metric postern_batch_calls'])
  expect(wrongIn('postern_database_up_count')).toEqual(['no metric postern_database_up_count'])
})

test("the operators' list is that of the program", () => {
  const text = read('deploy/operations.md')
  expect(text.split('<!-- metrics -->\n')[1]?.split('\n<!-- end -->')[0]).toBe(metricsTable())
  for (const [, file = ''] of text.matchAll(/\]\(([^)#:]+)\)/g))
    expect(existsSync(`${root}deploy/${file}`), file).toBe(true)
})

test('the scrape configuration for Kubernetes finds the pods of deploy/k8s', () => {
  const [, yaml = ''] = /```yaml\n(scrape_configs:[^`]*)```/.exec(read('deploy/operations.md')) ?? []
  type Relabel = { source_labels: [string]; regex: string; action: string }
  const [job] = (parse(yaml) as { scrape_configs: { job_name: string; relabel_configs: Relabel[] }[] }).scrape_configs
  const { spec } = parse(read('deploy/k8s/deployment.yaml')) as {
    spec: { template: { metadata: { labels: Record<string, string> }; spec: { containers: { ports: unknown[] }[] } } }
  }
  const { metadata, spec: pod } = spec.template
  const known = Object.fromEntries(
    Object.entries(metadata.labels).map(([name, value]) => [
      `__meta_kubernetes_pod_label_${name.replaceAll(/[^a-zA-Z0-9_]/g, '_')}`,
      value,
    ]),
  )
  const [port] = (pod.containers[0]?.ports ?? []) as { containerPort: number }[]
  const meta: Record<string, string> = {
    ...known,
    __meta_kubernetes_pod_container_port_number: `${port?.containerPort}`,
  }
  expect(job?.job_name).toBe('postern')
  for (const {
    source_labels: [name],
    regex,
    action,
  } of job?.relabel_configs ?? [])
    expect([action, new RegExp(`^(?:${regex})$`).test(meta[name] ?? '')], name).toEqual(['keep', true])
})

describe('compose with the profile observability', () => {
  type Service = { profiles?: string[]; ports?: string[]; volumes?: string[]; environment?: Record<string, string> }
  const { services, volumes } = parse(read('docker-compose.yml'), { merge: true }) as {
    services: Record<string, Service>
    volumes: Record<string, unknown>
  }
  const mountsOf = (name: string) =>
    (services[name]?.volumes ?? []).map((each) => each.split(':') as [string, string, string?])

  test('starts Prometheus and Grafana, on this machine only, with files that exist', () => {
    for (const name of ['prometheus', 'grafana']) {
      expect(services[name]?.profiles).toEqual(['observability'])
      for (const port of services[name]?.ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/)
      for (const [from, , mode] of mountsOf(name)) {
        if (!from.startsWith('.')) expect(Object.keys(volumes)).toContain(from)
        else expect([from, existsSync(`${root}${from}`), mode]).toEqual([from, true, 'ro'])
      }
    }
    const others = Object.entries(services).filter(([name]) => name !== 'prometheus' && name !== 'grafana')
    for (const [name, { profiles }] of others) expect(profiles, name).toBeUndefined()
  })

  test('scrapes each gateway itself, with the rules where they are mounted', () => {
    const config = parse(read('deploy/prometheus/prometheus.yml')) as {
      rule_files: string[]
      scrape_configs: { job_name: string; static_configs: { targets: string[] }[] }[]
    }
    const gateways = Object.keys(services).filter((name) => name.startsWith('gateway-'))
    const [job] = config.scrape_configs
    expect(job?.job_name).toBe('postern')
    expect(job?.static_configs[0]?.targets).toEqual(gateways.map((name) => `${name}:7070`))
    const mounted = mountsOf('prometheus').map(([, to]) => to)
    for (const file of config.rule_files) expect(mounted).toContain(file)
  })

  test('gives Grafana the data source and the dashboard', () => {
    const folder = 'deploy/grafana/provisioning'
    const { datasources } = parse(read(`${folder}/datasources/prometheus.yml`)) as { datasources: { url: string }[] }
    expect(datasources[0]?.url).toBe('http://prometheus:9090')
    const { providers } = parse(read(`${folder}/dashboards/postern.yml`)) as {
      providers: { options: { path: string } }[]
    }
    const mounted = mountsOf('grafana').map(([, to]) => to)
    expect(mounted).toContain(`${providers[0]?.options.path}/postern.json`)
    expect(mounted).toContain('/etc/grafana/provisioning')
  })

  test('opens the metrics of gateways that only it can reach', () => {
    for (const [name, service] of Object.entries(services).filter(([name]) => name.startsWith('gateway-'))) {
      expect(service.environment?.METRICS_PUBLIC, name).toBe('true')
      expect(service.ports, name).toBeUndefined()
    }
    expect(read('deploy/nginx.conf')).toMatch(/location = \/metrics \{\s*return 404;/)
  })
})

function hasPromtool(): boolean {
  return (process.env.PATH ?? '').split(':').some((folder) => existsSync(`${folder}/promtool`))
}
