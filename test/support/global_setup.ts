/** Starts the Postgres of the test run and fills the template that each test file's database is made from. */
import { chmodSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import postgres from 'postgres'
import type { TestProject } from 'vitest/node'
import { startEmbedded } from '../../src/store/embedded/index.ts'
import { migrate } from '../../src/store/index.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    postgresUrl: string
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dir = mkdtempSync(path.join(tmpdir(), 'postern-test-'))
  chmodSync(dir, 0o755)
  const server = await startEmbedded({ dir, ephemeral: true, log: () => {} })
  const root = postgres(server.url, { max: 1, onnotice: () => {} })
  await root.unsafe('create database template_postern')
  await root.end()
  await migrate(server.url.replace(/\/postgres$/, '/template_postern'))
  project.provide('postgresUrl', server.url)
  return server.stop
}
