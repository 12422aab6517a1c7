/** The facts that matter about the image and the compose file. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { parse } from 'yaml'

const read = (name: string): string => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8')

type Service = {
  environment?: Record<string, string>
  depends_on?: Record<string, { condition: string }>
  ports?: string[]
  volumes?: string[]
  healthcheck?: unknown
}

test('compose runs two gateways behind one port, and none without a root key', () => {
  const { services } = parse(read('docker-compose.yml'), { merge: true }) as { services: Record<string, Service> }
  const gateways = Object.entries(services).filter(([name]) => name.startsWith('gateway-'))
  expect(gateways).toHaveLength(2)
  for (const [name, gateway] of gateways) {
    expect(gateway.environment?.POSTERN_ROOT_KEY).toMatch(/^\$\{POSTERN_ROOT_KEY:\?/)
    expect(gateway.ports).toBeUndefined()
    expect(read('deploy/nginx.conf')).toContain(`server ${name}:7070`)
  }
  expect(services.nginx?.ports).toEqual(['7070:7070'])
  expect(services.postgres?.healthcheck).toBeDefined()
  expect(services.postgres?.volumes?.[0]).toMatch(/^postgres:/)
})

test('the image runs as another than root, in two stages, without the embedded binaries', () => {
  const dockerfile = read('deploy/Dockerfile')
  expect(dockerfile.match(/^FROM /gm)).toHaveLength(2)
  expect(dockerfile).toMatch(/^USER node$/m)
  expect(dockerfile.match(/--omit=optional/g)).toHaveLength(2)
})

test('the proxy waits longer than the longest poll and takes the largest batch', () => {
  const nginx = read('deploy/nginx.conf')
  expect(Number(/proxy_read_timeout (\d+)s/.exec(nginx)?.[1])).toBeGreaterThan(60)
  expect(Number(/client_max_body_size (\d+)m/.exec(nginx)?.[1])).toBeGreaterThan(10)
})
