/** Any filter on any message matches as a second reading of EventBridge's rules, slow and plain, says. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compileFilter, parseFilter } from '../src/model/filter.ts'

type Input = { headers: Record<string, string>; body: unknown }
type Pairs = [name: string, asked: unknown[] | Pairs][]

/** All ways through the `$or`s of an object: what is left has none. */
function ways(fields: object): Pairs[] {
  return Object.entries(fields).reduce<Pairs[]>(
    (before, [name, member]) => {
      const here: Pairs[] =
        name === '$or'
          ? member.flatMap(ways)
          : Array.isArray(member)
            ? [[[name, member]]]
            : ways(member).map((each) => [[name, each]])
      return before.flatMap((left) => here.map((right) => [...left, ...right]))
    },
    [[]],
  )
}

const flat = (value: unknown): unknown[] => [value].flat(Number.POSITIVE_INFINITY)
const isRecord = (value: unknown): value is object => typeof value === 'object' && value !== null
const get = (value: object, name: string): unknown => new Map<string, unknown>(Object.entries(value)).get(name)

function holds(alternative: unknown, value: unknown): boolean {
  if (!isRecord(alternative)) return JSON.stringify(value) === JSON.stringify(alternative)
  const [[operator, operand] = ['', null]] = Object.entries(alternative)
  const text = typeof value === 'string' ? value : null
  if (operator === 'exists') return operand
  if (operator === 'prefix') return text !== null && text.indexOf(operand) === 0
  if (operator === 'suffix') return text !== null && text.substring(text.length - operand.length) === operand
  if (operator === 'equals-ignore-case') return text?.toLowerCase() === operand.toLowerCase()
  if (operator === 'numeric') {
    const tests = { '=': [0], '<': [-1], '<=': [-1, 0], '>': [1], '>=': [0, 1] }
    const test = (sign: keyof typeof tests, limit: number) =>
      typeof value === 'number' && tests[sign].includes(Math.sign(value - limit))
    return test(operand[0], operand[1]) && (operand.length === 2 || test(operand[2], operand[3]))
  }
  const excluded = isRecord(operand) && !Array.isArray(operand) ? [operand] : [operand].flat()
  return excluded.every((each) => !holds(each, value))
}

type Quirk = 'none' | 'every element' | 'any object'

/** The rules as they are said, by trying every way. `quirk`: how it is wrong. */
function reference(filter: object, input: Input, quirk: Quirk): boolean {
  const asks = (pairs: Pairs, value: object): boolean =>
    pairs.every(([name, asked]) => {
      if (name === 'body' && value === input && input.body === undefined) return false
      const found = flat(get(value, name)).filter((each) => each !== undefined)
      if (isPairs(asked)) {
        const objects = found.filter(isRecord)
        const held = (each: object) => asks(asked, each)
        if (objects.length === 0) return held({})
        return quirk === 'any object'
          ? asked.every((one) => objects.some((each) => asks([one], each)))
          : objects.some(held)
      }
      const values = found.filter((each) => !isRecord(each))
      if (values.length === 0) return asked.some((each) => JSON.stringify(each) === '{"exists":false}')
      const held = (each: unknown) => asked.some((alternative) => holds(alternative, each))
      return quirk === 'every element' ? values.every(held) : values.some(held)
    })
  return ways(filter).some((way) => asks(way, input))
}
const isPairs = (asked: unknown[] | Pairs): asked is Pairs =>
  asked.length > 0 && asked.every((each) => Array.isArray(each))

const name = fc.constantFrom('a', 'a', 'b', 'constructor', '__proto__')
const text = fc.constantFrom('', 'a', 'A', 'ab', 'AB', 'ba', '1')
const number = fc.constantFrom(0, 1, 1.5, 2)
const sign = fc.constantFrom('=', '<', '<=', '>', '>=')
const scalar = fc.oneof(text, number, fc.constantFrom(true, false, null))
const textOperator = fc.oneof(
  fc.record({ prefix: text }),
  fc.record({ suffix: text }),
  fc.record({ 'equals-ignore-case': text }),
)
const textAlternative = fc.oneof(
  text,
  textOperator,
  fc.record({ exists: fc.boolean() }),
  fc.record({ 'anything-but': fc.oneof(text, fc.array(text, { minLength: 1, maxLength: 3 }), textOperator) }),
)
const bodyAlternative = fc.oneof(
  scalar,
  textAlternative,
  fc.record({ 'anything-but': fc.oneof(number, fc.array(fc.oneof(text, number), { minLength: 1, maxLength: 3 })) }),
  fc.record({
    numeric: fc.oneof(fc.tuple(sign, number), fc.tuple(sign, number, sign, number)),
  }),
)
const list = (alternative: fc.Arbitrary<unknown>) => fc.array(alternative, { minLength: 1, maxLength: 3 })
const fieldsOf = (member: fc.Arbitrary<unknown>, names = name) =>
  fc
    .uniqueArray(fc.tuple(names, member), { selector: ([each]) => each, minLength: 1, maxLength: 3 })
    .map((entries): object => Object.fromEntries(entries))
const withOr = (fields: fc.Arbitrary<object>) =>
  fc.oneof(
    { weight: 3, arbitrary: fields },
    fc.array(fields, { minLength: 1, maxLength: 3 }).map(($or): object => ({ $or })),
    fc.tuple(fields, fc.array(fields, { minLength: 1, maxLength: 2 })).map(([each, $or]): object => ({ ...each, $or })),
  )
const headerFilter = withOr(fieldsOf(list(textAlternative)))
const { bodyFilter } = fc.letrec<{ bodyFilter: object }>((tie) => ({
  bodyFilter: withOr(fieldsOf(fc.oneof({ maxDepth: 2 }, list(bodyAlternative), tie('bodyFilter')))),
}))
/** Often asks two fields of the objects in one array: else a rule that mixes objects up would seldom be found out. */
const anyFilter = withOr(
  fc.oneof(
    fc.tuple(list(scalar), list(scalar)).map(([a, b]): object => ({ body: { a: { a, b } } })),
    fc.record({ headers: headerFilter }),
    fc.record({ body: bodyFilter }),
    fc.record({ headers: headerFilter, body: bodyFilter }),
  ),
).filter((filter) => !('errors' in parseFilter(filter)))

const { anyBody } = fc.letrec<{ anyBody: unknown }>((tie) => ({
  anyBody: fc.oneof(
    { maxDepth: 5, depthSize: 'small' },
    scalar,
    fieldsOf(tie('anyBody')),
    fc.array(tie('anyBody'), { maxLength: 3 }),
  ),
}))
const anyInput: fc.Arbitrary<Input> = fc.record({
  headers: fc
    .uniqueArray(fc.tuple(name, text), { selector: ([each]) => each })
    .map((entries) => Object.fromEntries(entries)),
  body: fc.oneof(
    { weight: 9, arbitrary: fieldsOf(anyBody) },
    { weight: 4, arbitrary: fc.array(fieldsOf(scalar), { minLength: 2, maxLength: 5 }).map((a) => ({ a })) },
    anyBody,
    fc.constant(undefined),
  ),
})

describe('any filter on any message', () => {
  const agrees = (quirk: Quirk) =>
    fc.property(anyFilter, fc.array(anyInput, { minLength: 1, maxLength: 5 }), (filter, inputs) => {
      const compiled = compileFilter(JSON.parse(JSON.stringify(filter)))
      return inputs.every((input) => compiled.matches(input) === reference(filter, input, quirk))
    })
  test('matches as the rules say', () => fc.assert(agrees('none'), { numRuns: 3000 }))
  test.each(['every element', 'any object'] as const)('twin: a rule of "%s" is found out', (quirk) =>
    expect(fc.check(agrees(quirk), { numRuns: 20_000 }).failed).toBe(true),
  )
})

test('whatever is parsed as a filter is refused with pointers or compiles', () => {
  fc.assert(
    fc.property(fc.oneof(fc.jsonValue(), fc.record({ body: fc.jsonValue(), headers: fc.jsonValue() })), (value) => {
      const result = parseFilter(value)
      if ('errors' in result) expect(result.errors.length).toBeGreaterThan(0)
      else expect(typeof compileFilter(result.filter).matches({ headers: {}, body: value })).toBe('boolean')
    }),
  )
})
