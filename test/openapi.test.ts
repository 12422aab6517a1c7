/** openapi.yaml is what the routes say, and it is valid OpenAPI. */
import { readFile } from 'node:fs/promises'
import { Validator } from '@seriousme/openapi-schema-validator'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { endpoints, openApiYaml } from '../src/http/index.ts'

type Operation = {
  operationId: string
  security?: unknown[]
  responses: Record<string, unknown>
  parameters?: { name: string; in: string }[]
}
const document = parse(openApiYaml()) as { paths: Record<string, Record<string, Operation>> }
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
)

describe('openapi.yaml', () => {
  test('is printed from the routes: run `npm run openapi` when this fails', async () => {
    expect(await readFile(new URL('../openapi.yaml', import.meta.url), 'utf8')).toBe(openApiYaml())
  })

  test('is valid OpenAPI 3.1', async () => {
    const result = await new Validator().validate(structuredClone(document))
    expect(result.errors ?? []).toEqual([])
    expect(result.valid).toBe(true)
  })

  test('prints the same text every time', () => {
    expect(openApiYaml()).toBe(openApiYaml())
  })

  test('has every endpoint, each operation by its own name', () => {
    expect(operations).toHaveLength(endpoints.length)
    const names = operations.map(({ operation }) => operation.operationId)
    expect(new Set(names).size).toBe(names.length)
  })

  test('declares the parameters in each path, and what a refused caller gets', () => {
    for (const { path, method, operation } of operations) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
      const declared = (operation.parameters ?? []).filter((one) => one.in === 'path').map(({ name }) => name)
      expect(declared.sort(), `${method} ${path}`).toEqual(inPath.sort())
      for (const status of operation.security ? ['401', '403', '422', '500', '503'] : ['422', '500']) {
        expect(Object.keys(operation.responses), `${method} ${path}`).toContain(status)
      }
    }
  })
})
