/** The documents are true: their lists are the program's, their statements are run. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import postgres from 'postgres'
import { expect, inject, test } from 'vitest'
import { databaseProblems } from '../src/broker/index.ts'
import { endpoints } from '../src/http/index.ts'
import { isFatal, problem, problemCodes } from '../src/model/index.ts'
import * as store from '../src/store/index.ts'
import { ack, brokerOn, message, receive, send } from './support/broker.ts'
import { testDatabase } from './support/postgres.ts'

const root = new URL('../', import.meta.url)
const read = (name: string): string => readFileSync(new URL(name, root), 'utf8')
const block = (text: string, language: string, nth = 0): string =>
  text.split(`\`\`\`${language}\n`)[nth + 1]?.split('\n```')[0] ?? ''

/** Statements in lists are indented. */
const indented = (text: string, nth: number): string => block(text.replaceAll(/^ {3}/gm, ''), 'sql', nth)

test('every problem has its line in docs/diagnosis.md, with its advice', () => {
  const rows = read('docs/diagnosis.md').match(/^\| `.*$/gm)
  expect(rows).toEqual(
    problemCodes.map((code) => {
      const { advice } = problem(code, '')
      return `| \`${code}\` | ${isFatal({ code }) ? 'no' : 'yes'} | ${advice} |`
    }),
  )
})

test('what the documents and the alerts tell people to call, and the lines they tell them to look for, exist', () => {
  const known = new Set(endpoints.map(({ route }) => `${route.method.toUpperCase()} ${route.path}`))
  const places = ['deploy/operations.md', 'deploy/prometheus/alerts.yml', 'docs/upgrade.md', 'docs/diagnosis.md']
  const called = places.flatMap((file) => [...read(file).matchAll(/\b(GET|PUT|POST|DELETE|PATCH) (\/v1\/[\w/{}]+)/g)])
  expect(called.length).toBeGreaterThan(15)
  const shape = (path: string): string =>
    path.replaceAll(/\{\w+\}|\/[A-Z]+(?=\/|$)/g, (part) => (part.startsWith('/') ? '/{}' : '{}'))
  const shapes = new Set([...known].map(shape))
  for (const [, method, path = ''] of called) expect(shapes, path).toContain(`${method} ${shape(path)}`)
  const source = readdirSync(new URL('src/', root), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => read(`src/${name}`))
    .join('\n')
  const lines = read('deploy/operations.md').split('Lines to look for')[1]?.split('\n## ')[0] ?? ''
  const events = [...lines.matchAll(/^\| (.*?) \|/gm)].flatMap(([, cell = '']) => [
    ...cell.matchAll(/`([a-z][a-z ]+)`/g),
  ])
  expect(events.length).toBeGreaterThan(8)
  for (const [, event] of events) expect(source, event).toContain(`'${event}'`)
})

test('links between the documents lead somewhere', () => {
  const files = [
    'README.md',
    'deploy/k8s/README.md',
    'deploy/operations.md',
    ...readdirSync(new URL('docs/', root)).map((name) => `docs/${name}`),
  ]
  for (const file of files)
    for (const [, target = ''] of read(file).matchAll(/\]\((?!http)([^)#]+)\)/g))
      expect(existsSync(new URL(target, new URL(file, root))), `${file}: ${target}`).toBe(true)
})

test('docs/backup.md knows every table, and its statement moves ids on', async () => {
  const database = await testDatabase()
  const text = read('docs/backup.md')
  const tables = await database.sql<
    { name: string }[]
  >`select tablename as name from pg_tables where schemaname = 'postern'`
  const listed = [...text.matchAll(/^\| ((?:`\w+` ?)+)\|/gm)].flatMap(([, names = '']) => names.match(/\w+/g) ?? [])
  expect(listed.sort()).toEqual(tables.map(({ name }) => name).sort())
  const dumped = [...block(text, 'sh').matchAll(/-t postern\.(\w+)/g)].map(([, name]) => name)
  expect(listed).toEqual(expect.arrayContaining(dumped))
  // What is restored goes into a database that was just migrated.
  for (const name of dumped) expect(await database.sql.unsafe(`select * from postern.${name}`), name).toEqual([])
  const broker = brokerOn(database.url)
  await broker.start()
  await broker.admin.putQueue('q', {})
  const [before = ''] = await send(broker, 'q', 'x')
  await database.sql.unsafe(block(text, 'sql'))
  const [after = ''] = await send(broker, 'q', 'x')
  expect(Number.parseInt(after.slice(4), 36) - Number.parseInt(before.slice(4), 36)).toBeGreaterThan(999_999_999)
  await broker.stop(1000)
  await database.drop()
})

test('the statements of docs/upgrade.md hold runs back, tell when none is left, and let them go on', async () => {
  const database = await testDatabase()
  const text = read('docs/upgrade.md')
  const [clean = '', expect0 = '', count = '', takeBack = ''] = [0, 1, 2, 3].map((nth) => indented(text, nth))
  const broker = brokerOn(database.url)
  await broker.start()
  await broker.admin.putQueue('q', { order: 'keyed' })
  await send(broker, 'q', ...['1', '2', '3', '4', '5', '6'].map((body) => message(body, { key: 'k' })))
  const runs = async (): Promise<number> => (await database.sql.unsafe(count))[0]?.count as number
  const first = await receive(broker, 'q', 2, { waitMs: 5000 })
  expect([first.length, Number(await runs())]).toEqual([2, 1])
  await database.sql.unsafe(expect0)
  // That it is expected is not that it was killed.
  await database.sql.unsafe(clean)
  await ack(broker, ...first)
  expect(Number(await runs())).toBe(0)
  const second = await receive(broker, 'q', 2, { waitMs: 5000 })
  expect(second).toHaveLength(1)
  await ack(broker, ...second)
  await database.sql.unsafe(takeBack)
  expect(await receive(broker, 'q', 2, { waitMs: 5000 })).toHaveLength(2)
  await broker.stop(1000)
  await database.drop()
})

test('the roles of docs/postgres.md: one migrates, and the other serves without owning anything', async () => {
  const suffix = Math.trunc(performance.now())
  const name = `roles_${suffix}`
  const admin = postgres(inject('postgresUrl'), { max: 1, onnotice: () => {} })
  await admin.unsafe(`create database ${name}`)
  const url = (role: string) => {
    const one = new URL(inject('postgresUrl'))
    Object.assign(one, { pathname: name, ...(role === '' ? {} : { username: role, password: 'CHANGE_ME' }) })
    return one.href
  }
  const words = block(read('docs/postgres.md'), 'sql')
    .replaceAll(/\bpostern_owner\b/g, `owner_${suffix}`)
    .replaceAll(/(role|to) postern\b(?! )/g, `$1 app_${suffix}`)
    .replaceAll('role postern login', `role app_${suffix} login`)
    .replace('on database postern ', `on database ${name} `)
  const [first = '', then = '', last = ''] = words.split(/^--.*$/m)
  await admin.unsafe(first)
  expect(await store.migrate(url(`owner_${suffix}`))).toBeGreaterThan(10)
  const owner = postgres(url(`owner_${suffix}`), { max: 1, onnotice: () => {} })
  await owner.unsafe(then)
  await owner.end()
  await admin.unsafe(last)

  const appUrl = url(`app_${suffix}`)
  expect(await store.migrate(appUrl)).toBe(0)
  const broker = brokerOn(appUrl)
  await broker.start()
  for (const [queue, settings] of [
    ['plain', {}],
    ['keyed', { order: 'keyed', maxMessages: 5, maxLeased: 5 }],
  ] as const) {
    await broker.admin.putQueue(queue, settings)
    await send(broker, queue, message('x', { key: 'a' }))
    expect(await ack(broker, ...(await receive(broker, queue, 1, { waitMs: 5000 })))).toEqual(['acked'])
  }
  const db = store.connect({ databaseUrl: appUrl, pool: 3, prepare: true })
  const codes = (await databaseProblems(db, true)).map(({ code }) => code)
  // The Postgres of the tests does not sync, and other tests take its connections.
  expect(codes.filter((code) => code !== 'not_durable' && code !== 'connections_exhausted')).toEqual([])
  await db.close()
  await broker.stop(1000)
  await admin.unsafe(`drop database ${name} with (force)`)
  await admin.unsafe(`drop role app_${suffix}; drop role owner_${suffix}`)
  await admin.end()
}, 30_000)
