/** The manifests are valid Kubernetes, agree with each other and with the program, and the example does what it shows. */
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { settings } from '../src/config.ts'
import { rootKey, testApp } from './support/app.ts'
import { eventually } from './support/postgres.ts'

const folder = new URL('../deploy/k8s/', import.meta.url)
const read = (name: string): string => readFileSync(new URL(name, folder), 'utf8')
const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.yaml'))

type Named = { name: string }
type EnvironmentEntry = Named & { value?: string; valueFrom?: { secretKeyRef: Named & { key: string } } }
type Probe = { httpGet: { path: string; port: string }; timeoutSeconds?: number }
type Container = Named & {
  env: EnvironmentEntry[]
  ports?: { name: string; containerPort: number }[]
  resources: { requests: Record<string, string>; limits: Record<string, string> }
  securityContext: Record<string, unknown>
  lifecycle?: { preStop: { exec: { command: string[] } } }
} & Partial<Record<'startupProbe' | 'livenessProbe' | 'readinessProbe', Probe>>
type Pod = {
  containers: Container[]
  serviceAccountName?: string
  securityContext: Record<string, unknown>
  terminationGracePeriodSeconds?: number
  topologySpreadConstraints?: { labelSelector: { matchLabels: Record<string, string> } }[]
}
type Manifest = {
  file: string
  apiVersion: string
  kind: string
  metadata: Named
  stringData?: Record<string, string>
  spec: {
    selector?: { matchLabels: Record<string, string> } & Record<string, unknown>
    template: { metadata: { labels: Record<string, string> }; spec: Pod }
    scaleTargetRef?: Named
    triggers?: { metadata: Record<string, string>; authenticationRef: Named }[]
    secretTargetRef?: (Named & { key: string })[]
    ports?: { port: number; targetPort: string }[]
  }
}

const manifests: Manifest[] = names
  .filter((name) => !name.endsWith('kustomization.yaml'))
  .flatMap((file) => parseAllDocuments(read(file)).map((each) => ({ ...(each.toJS() as Manifest), file })))
const one = (kind: string, name = 'postern'): Manifest => {
  const found = manifests.filter((each) => each.kind === kind && each.metadata.name === name)
  expect(found, `${kind} ${name}`).toHaveLength(1)
  return found[0] as Manifest
}

type Model = new (value: unknown) => { validate(): void }
async function validate({ file: _, ...manifest }: Manifest): Promise<void> {
  const { apiVersion, kind } = manifest
  const from = apiVersion.startsWith('keda.sh/') ? '@kubernetes-models/keda' : 'kubernetes-models'
  const models = (await import(`${from}/${apiVersion}`)) as Record<string, Model>
  const Kind = models[kind]
  if (!Kind) throw new Error(`there is no ${kind} in ${apiVersion}`)
  new Kind(manifest).validate()
}

describe.each(manifests.map((each) => [`${each.file}: ${each.kind} ${each.metadata.name}`, each] as const))(
  '%s',
  (_title, manifest) => {
    test('is valid', () => validate(manifest))
    test('would be refused with a wrong field', async () => {
      await expect(validate({ ...manifest, metadata: { name: 7 as unknown as string } })).rejects.toThrow()
    })
  },
)

test.each(['', 'examples/'])('%skustomization.yaml names every manifest but the template of the Secret', (at) => {
  const { resources, configMapGenerator = [] } = parse(read(`${at}kustomization.yaml`)) as {
    resources: string[]
    configMapGenerator?: { files: string[] }[]
  }
  const there = readdirSync(new URL(at, folder)).filter(
    (name) => name.endsWith('.yaml') && name !== 'kustomization.yaml' && name !== 'secret.example.yaml',
  )
  expect([...resources].sort()).toEqual(there.sort())
  for (const { files } of configMapGenerator) for (const file of files) expect(read(at + file)).not.toBe('')
})

const workloads = manifests.filter(({ kind }) => kind === 'Deployment' || kind === 'Job')

test.each(workloads.map((each) => [`${each.kind} ${each.metadata.name}`, each] as const))(
  '%s runs without rights, within bounds, and finds its secrets',
  (_title, { spec: { template } }) => {
    const { securityContext, containers } = template.spec
    expect(securityContext).toMatchObject({ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } })
    const secrets = manifests.filter(({ kind }) => kind === 'Secret')
    for (const { securityContext: own, resources, env } of containers) {
      expect(own).toEqual({
        ...{ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
      })
      expect([resources.requests.cpu, resources.requests.memory, resources.limits.memory]).not.toContain(undefined)
      for (const { secretKeyRef } of env.flatMap(({ valueFrom }) => valueFrom ?? [])) {
        const secret = secrets.find(({ metadata }) => metadata.name === secretKeyRef.name)
        expect(Object.keys(secret?.stringData ?? {})).toContain(secretKeyRef.key)
      }
    }
  },
)

describe('the gateways', () => {
  const { spec } = one('Deployment')
  const pod = spec.template.spec
  const [gateway] = pod.containers as [Container]

  test('are found by everything that selects them', () => {
    const labels = spec.template.metadata.labels
    const selectors = [
      spec.selector?.matchLabels,
      one('Service').spec.selector,
      one('PodDisruptionBudget').spec.selector?.matchLabels,
      ...(pod.topologySpreadConstraints ?? []).map(({ labelSelector }) => labelSelector.matchLabels),
    ]
    expect(selectors).toHaveLength(5)
    for (const selector of selectors) expect(labels).toMatchObject(selector as Record<string, string>)
    expect(one('HorizontalPodAutoscaler').spec.scaleTargetRef).toMatchObject({ kind: 'Deployment', name: 'postern' })
    expect(one('ServiceAccount').metadata.name).toBe(pod.serviceAccountName)
    expect(one('Service').spec.ports?.[0]).toMatchObject({ port: 7070, targetPort: gateway.ports?.[0]?.name })
  })

  test('have only settings that exist', () => {
    const known = settings.map(({ name }): string => name)
    for (const { env } of [gateway, ...one('Job', 'postern-migrate').spec.template.spec.containers])
      for (const { name } of env) expect(known).toContain(name)
  })

  test('are restarted for the process, taken out for the database, and have time to finish', () => {
    expect(gateway.startupProbe?.httpGet.path).toBe('/healthz')
    expect(gateway.livenessProbe?.httpGet.path).toBe('/healthz')
    expect(gateway.readinessProbe?.httpGet.path).toBe('/readyz')
    // The gateway answers within four seconds.
    expect(gateway.readinessProbe?.timeoutSeconds).toBeGreaterThan(4)
    const drainS = Number.parseInt(gateway.env.find(({ name }) => name === 'DRAIN')?.value ?? '', 10)
    const pauseS = Number(gateway.lifecycle?.preStop.exec.command.at(-1))
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThanOrEqual(drainS + pauseS + 5)
  })
})

describe('the example', () => {
  test('the scaler reads a number, with a key of its own, and scales the consumer', async () => {
    const scaled = one('ScaledObject', 'orders-consumer').spec
    expect(one('Deployment', scaled.scaleTargetRef?.name).metadata.name).toBe('orders-consumer')
    const { metadata, authenticationRef } = scaled.triggers?.[0] ?? { metadata: {}, authenticationRef: { name: '' } }
    const [token] = one('TriggerAuthentication', authenticationRef.name).spec.secretTargetRef ?? []
    expect(Object.keys(one('Secret', token?.name).stringData ?? {})).toContain(token?.key)
    const app = await testApp({ rootKey, open: false })
    const headers = { authorization: `Bearer ${rootKey}` }
    await app.request('/v1/queues/orders', { method: 'PUT', headers })
    const scopes = [{ actions: ['read'], queues: ['orders'], topics: [] }]
    const made = await app.request('/v1/keys', { method: 'POST', headers, json: { name: 'scaler', scopes } })
    const { key } = (await made.json()) as { key: string }
    const { pathname, search } = new URL(metadata.url ?? '')
    const answer = await app.request(pathname + search, { headers: { authorization: `Bearer ${key}` } })
    expect(answer.status).toBe(200)
    const figures = (await answer.json()) as Record<string, unknown>
    expect(figures[metadata.valueLocation ?? '']).toBe(0)
    await app.stop()
  })

  test('the producer sends, the consumer takes and acknowledges, and both end when they are told to', async () => {
    const app = await testApp({ rootKey, open: false })
    const { port } = await app.listen()
    await app.broker.admin.putQueue('orders', {})
    const start = (script: string) => {
      const child = spawn(process.execPath, [new URL(`examples/${script}`, folder).pathname], {
        env: { POSTERN_URL: `http://127.0.0.1:${port}`, POSTERN_KEY: rootKey, QUEUE: 'orders', EVERY_MS: '20' },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      let text = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => (text += part))
      const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
      return { child, text: () => text, exited }
    }
    const producer = start('producer.mjs')
    const consumer = start('consumer.mjs')
    await eventually(() => (consumer.text().match(/^order /gm) ?? []).length >= 5, 20_000)
    producer.child.kill('SIGTERM')
    expect(await producer.exited, producer.text()).toBe(0)
    const sent = (producer.text().match(/^sent msg_/gm) ?? []).length
    await eventually(() => (consumer.text().match(/^order /gm) ?? []).length >= sent)
    // It waits for the next one by now, or will.
    consumer.child.kill('SIGTERM')
    expect(await consumer.exited, consumer.text()).toBe(0)
    expect(consumer.text()).toMatch(/stopped\n$/)
    expect((consumer.text().match(/^order /gm) ?? []).length).toBe(sent)
    expect((await app.broker.admin.getQueue('orders')).counts).toMatchObject({ ready: 0, leased: 0, dead: 0 })
    await app.stop()
  }, 40_000)
})
