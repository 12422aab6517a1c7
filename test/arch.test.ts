/** The rules of the structure, held as code; each has a twin that shows that it can fail. */
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'

type Files = Map<string, string>
type Rule = (files: Files) => string[]

const root = new URL('../src/', import.meta.url).pathname
const files: Files = new Map(
  readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => [name, readFileSync(path.join(root, name), 'utf8')]),
)

const floors: Record<string, number> = {
  base: 0,
  model: 1,
  store: 2,
  broker: 3,
  push: 4,
  http: 4,
  sqs: 4,
  dashboard: 4,
  telemetry: 4,
  tracing: 4,
}
const folderOf = (file: string): string => (file.includes('/') ? (file.split('/')[0] ?? '') : '')
const floorOf = (file: string): number => floors[folderOf(file)] ?? 5

/** `[importing file, imported file]`, within src. */
function imports(all: Files): [string, string][] {
  return [...all].flatMap(([file, text]) =>
    [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((match): [string, string] => [
      file,
      path.normalize(path.join(path.dirname(file), match[1] ?? '')),
    ]),
  )
}

const codeOf = (text: string): string => text.replace(/\/\*\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '')

const lines =
  (pattern: RegExp, allowed: (file: string) => boolean): Rule =>
  (all) =>
    [...all].flatMap(([file, text]) =>
      allowed(file)
        ? []
        : codeOf(text)
            .split('\n')
            .filter((line) => pattern.test(line))
            .map((line) => `${file}: ${line.trim()}`),
    )

const rules: Record<string, { rule: Rule; twin: [string, string][] }> = {
  'imports go down only': {
    rule: (all) =>
      imports(all)
        .filter(([from, to]) => floorOf(from) < floorOf(to))
        .map(String),
    twin: [['store/a.ts', "import { x } from '../broker/index.ts'"]],
  },
  'a folder is entered by its index.ts': {
    rule: (all) =>
      imports(all)
        .filter(
          ([from, to]) =>
            floorOf(to) < 5 && folderOf(from) !== folderOf(to) && !/^\w+\/(embedded\/)?index\.ts$/.test(to),
        )
        .map(String),
    twin: [['broker/a.ts', "import { x } from '../store/client.ts'"]],
  },
  'edges never import each other': {
    rule: (all) =>
      imports(all)
        .filter(([from, to]) => floorOf(from) === 4 && floorOf(to) === 4 && folderOf(from) !== folderOf(to))
        .map(String),
    twin: [['http/a.ts', "import { x } from '../push/index.ts'"]],
  },
  'no import cycles': {
    rule: cycles,
    twin: [
      ['http/a.ts', "import { x } from './b.ts'"],
      ['http/b.ts', "import { x } from './a.ts'"],
    ],
  },
  'SQL is in store': {
    rule: lines(/[`'"]\s*(?:\/\*[^*]*\*\/\s*)?(select|insert into|update|delete from|with \w+ as)\s/, (file) =>
      file.startsWith('store/'),
    ),
    twin: [['broker/a.ts', "db.hot('select 1 from x')"]],
  },
  'only config.ts reads the environment': {
    rule: lines(/process\.env/, (file) => file === 'config.ts'),
    twin: [['http/a.ts', 'const x = process.env.X']],
  },
  'clock, timers and randomness are in base': {
    rule: lines(
      /Date\.now|new Date\(\)|setTimeout|setInterval|setImmediate|Math\.random|performance\.now/,
      (file) => file.startsWith('base/') || file === 'http/server.ts',
    ),
    twin: [['broker/a.ts', 'setTimeout(() => {}, 1)']],
  },
  'no any, no non-null assertion, no enum or namespace, nothing put off': {
    rule: lines(
      /: any\b|as any\b|<any>|\w!\.|\w!;|^\s*(export )?(enum|namespace) |\bTO(?:)DO\b|FIX(?:)ME/,
      () => false,
    ),
    twin: [['model/a.ts', 'const x: any = 1']],
  },
  'files are under four hundred lines': {
    rule: (all) => [...all].filter(([, text]) => text.split('\n').length > 400).map(([file]) => file),
    twin: [['model/a.ts', '\n'.repeat(401)]],
  },
  'a file begins with its promise': {
    rule: (all) =>
      [...all].filter(([file, text]) => !/^\s*\/\*\*/.test(text) && !isDoor(file, text)).map(([file]) => file),
    twin: [['model/a.ts', 'export const x = 1']],
  },
}

/** A door that only hands on says nothing of its own. */
const isDoor = (file: string, text: string): boolean =>
  file.endsWith('/index.ts') && text.split('\n').every((line) => /^(export .* from '.*'|\s*)$/.test(line))

function cycles(all: Files): string[] {
  const graph = new Map<string, string[]>()
  for (const [from, to] of imports(all)) graph.set(from, [...(graph.get(from) ?? []), to])
  const done = new Set<string>()
  const found: string[] = []
  function visit(file: string, trail: string[]): void {
    if (trail.includes(file)) found.push([...trail.slice(trail.indexOf(file)), file].join(' > '))
    if (done.has(file) || trail.includes(file)) return
    for (const next of graph.get(file) ?? []) visit(next, [...trail, file])
    done.add(file)
  }
  for (const file of graph.keys()) visit(file, [])
  return found
}

describe.each(Object.entries(rules))('%s', (_name, { rule, twin }) => {
  test('holds', () => expect(rule(files)).toEqual([]))
  test('can fail', () => expect(rule(new Map(twin))).not.toEqual([]))
})

test('every statement has a name for pg_stat_activity', () => {
  const statements = [...files]
    .filter(
      ([file]) => file.startsWith('store/') && !file.startsWith('store/migrate') && !file.startsWith('store/embedded'),
    )
    .flatMap(([file, text]) =>
      [...text.matchAll(/db\.(?:hot|calm)(?:<[^(]*>)?\(\s*[`']([^`']{0,12})/g)].map((match) => `${file}: ${match[1]}`),
    )
  expect(statements.length).toBeGreaterThan(5)
  expect(statements.filter((each) => !each.includes(': /*'))).toEqual([])
})
