/** What a filter is; how it is checked and what it matches. Neither takes longer than its limits allow, whatever the message. */
import { Buffer } from 'node:buffer'
import type { FieldError } from './errors.ts'

export type Filter = { [field: string]: unknown }

export type CompiledFilter = {
  /** Whether the body is looked at; if not, it need not be parsed. */
  usesBody: boolean
  /** Header names are in lower case. `body` is the parsed JSON; undefined when the body is not JSON. */
  matches(input: { headers: Record<string, string>; body: unknown }): boolean
}

export const filterLimits = {
  /** Bytes of the filter as JSON. */
  bytes: 16_384,
  /** Objects within each other, the filter itself and those in `$or` included. */
  depth: 10,
  /** Alternatives of all fields and members of all `anything-but` lists. */
  values: 1000,
  /** Ways through all of the filter's `$or`s: within one they add up, side by side they multiply. */
  combinations: 64,
  /** Errors told at once. */
  errors: 20,
  /** Steps spent on one message: one for each value looked at and one for each operator tried on it. */
  steps: 100_000,
} as const

type Fields = { [field: string]: unknown }
type Scalar = string | number | boolean | null
type Budget = { left: number }
type ScalarTest = (value: Scalar) => boolean
/** `value` is undefined where the field is missing. */
type ValueTest = (value: unknown, budget: Budget) => boolean
type FieldsTest = (fields: Fields, budget: Budget) => boolean
type Part = { test: FieldsTest; combinations: number }

/** What has been found so far. */
type Reading = { errors: FieldError[]; values: number; usesBody: boolean }
/** `part`: what the fields here belong to. */
type Place = { pointer: string; depth: number; part: 'filter' | 'headers' | 'body' }

/** Checks a filter. Each error has its JSON pointer (RFC 6901) within the filter; '' is all of it. */
export function parseFilter(value: unknown): { filter: Filter } | { errors: FieldError[] } {
  const { errors } = read(value)
  if (errors.length > 0) return { errors }
  const bytes = Buffer.byteLength(JSON.stringify(value))
  if (bytes <= filterLimits.bytes && isObject(value)) return { filter: value }
  return { errors: [{ pointer: '', detail: `must be at most ${filterLimits.bytes} bytes of JSON; this is ${bytes}` }] }
}

/**
 * What a filter means is what it means as an event pattern of Amazon EventBridge
 * (https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html; the reference for what that leaves open is
 * https://github.com/aws/event-ruler). Said in one place:
 * - All fields of an object must match; of a field's list, one alternative; of `$or`, one object. Strings and numbers are never equal.
 * - An array matches if one element does, arrays within arrays included. In an array of objects one and the same object must match all
 *   fields asked of it.
 * - `exists` is about strings, numbers, booleans and nulls: an object or an empty array is no value, so `exists: false` matches it.
 * - `anything-but` matches any value that is there and is not excluded, of whatever type.
 * - Case is ignored as Unicode folds it, without regard to language. Numbers are doubles, as in JavaScript.
 * Of its own: a body that is not JSON matches no `body` part, not even `exists: false`; a message that takes more than
 * `filterLimits.steps` does not match.
 * Throws a TypeError for what parseFilter refuses (its size aside), since to match nothing would lose messages in silence.
 */
export function compileFilter(filter: Filter): CompiledFilter {
  const { errors, usesBody, test } = read(filter)
  const [wrong] = errors
  if (wrong) throw new TypeError(`filter${wrong.pointer} ${wrong.detail}`)
  return {
    usesBody,
    matches({ headers, body }) {
      const budget = { left: filterLimits.steps }
      return test({ headers, body }, budget) && budget.left >= 0
    },
  }
}

function read(value: unknown): Reading & { test: FieldsTest } {
  const reading: Reading = { errors: [], values: 0, usesBody: false }
  const { test } = readObject(value, { pointer: '', depth: 1, part: 'filter' }, reading)
  return { ...reading, test }
}

function readObject(value: unknown, place: Place, reading: Reading): Part {
  if (!isObject(value)) return refuse(reading, place.pointer, 'must be an object of fields')
  if (place.depth > filterLimits.depth)
    return refuse(reading, place.pointer, `must not be nested more than ${filterLimits.depth} objects deep`)
  const parts: Part[] = []
  for (const [name, member] of Object.entries(value)) {
    if (isOver(reading)) break
    const inner = { ...place, pointer: `${place.pointer}/${escaped(name)}`, depth: place.depth + 1 }
    parts.push(name === '$or' ? readOr(member, inner, reading) : readField(name, member, inner, reading))
  }
  if (parts.length === 0)
    return refuse(reading, place.pointer, 'must have at least one field; leave it out to match whatever it is')
  const combinations = parts.reduce((product, part) => product * part.combinations, 1)
  if (combinations > filterLimits.combinations)
    return refuse(reading, place.pointer, `must have at most ${filterLimits.combinations} combinations of $or`)
  return { combinations, test: (fields, budget) => parts.every((part) => part.test(fields, budget)) }
}

function readOr(value: unknown, place: Place, reading: Reading): Part {
  if (!Array.isArray(value) || value.length === 0)
    return refuse(reading, place.pointer, 'must be a list of at least one object of fields')
  const parts: Part[] = []
  for (const [index, member] of value.entries()) {
    if (isOver(reading)) break
    parts.push(readObject(member, { ...place, pointer: `${place.pointer}/${index}` }, reading))
  }
  return {
    combinations: parts.reduce((sum, part) => sum + part.combinations, 0),
    test: (fields, budget) => parts.some((part) => part.test(fields, budget)),
  }
}

function readField(name: string, member: unknown, place: Place, reading: Reading): Part {
  if (place.part === 'filter') {
    if (name === 'headers') return withField('headers', readNested(member, { ...place, part: 'headers' }, reading))
    if (name !== 'body') return refuse(reading, place.pointer, 'is not known here: a filter has headers, body and $or')
    reading.usesBody = true
    const body = readValue(member, { ...place, part: 'body' }, reading)
    const test: ValueTest = (value, budget) => value !== undefined && body.test(value, budget)
    return withField('body', { ...body, test })
  }
  checkText(name, place.pointer, reading)
  if (place.part === 'body') return withField(name, readValue(member, place, reading))
  if (!Array.isArray(member)) return refuse(reading, place.pointer, 'must be a list of alternatives, such as ["eu"]')
  return withField(name.toLowerCase(), { combinations: 1, test: readAlternatives(member, place, reading) })
}

/** Only a field of the object's own, so that `constructor` is a field like any other. */
function withField(name: string, { test, combinations }: { test: ValueTest; combinations: number }): Part {
  return {
    combinations,
    test: (fields, budget) => test(Object.hasOwn(fields, name) ? fields[name] : undefined, budget),
  }
}

function readValue(value: unknown, place: Place, reading: Reading): { test: ValueTest; combinations: number } {
  if (Array.isArray(value)) return { combinations: 1, test: readAlternatives(value, place, reading) }
  if (isObject(value)) return readNested(value, place, reading)
  return refuse(reading, place.pointer, 'must be a list of alternatives, such as ["paid"], or an object of fields')
}

/** A value without an object in it is taken for one without fields, so that `exists: false` matches whatever lies below it. */
function readNested(value: unknown, place: Place, reading: Reading): { test: ValueTest; combinations: number } {
  const { test, combinations } = readObject(value, place, reading)
  return {
    combinations,
    test(given, budget) {
      let found = false
      const matched = someElement(given, budget, (element) => {
        if (!isObject(element)) return false
        found = true
        return test(element, budget)
      })
      return matched || (!found && test({}, budget))
    },
  }
}

function readAlternatives(list: readonly unknown[], place: Place, reading: Reading): ValueTest {
  const exact = new Set<Scalar>()
  const tests: ScalarTest[] = []
  let orAbsent = false
  if (list.length === 0) refuse(reading, place.pointer, 'must have at least one alternative')
  for (const [index, alternative] of list.entries()) {
    if (isOver(reading)) break
    const inner = { ...place, pointer: `${place.pointer}/${index}` }
    count(inner, reading)
    const operator = isObject(alternative) && readOperator(alternative, inner, reading)
    if (operator === 'absent') orAbsent = true
    else if (operator) tests.push(operator)
    else if (!isObject(alternative) && checkScalar(alternative, inner, reading)) exact.add(alternative)
  }
  return (value, budget) => {
    let found = false
    const matched = someElement(value, budget, (element) => {
      if (!isScalar(element)) return false
      found = true
      budget.left -= tests.length
      return exact.has(element) || tests.some((test) => test(element))
    })
    return matched || (orAbsent && !found)
  }
}

/** What the one operator tests; `absent` for `exists: false`; null when it is wrong. */
function readOperator(alternative: Fields, place: Place, reading: Reading): ScalarTest | 'absent' | null {
  const [operator, operand, inner] = onlyMember(alternative, place, reading)
  switch (operator) {
    case undefined:
      return null
    case 'prefix':
    case 'suffix': {
      const ignoring = isObject(operand)
      const [name, text, at] = ignoring ? onlyMember(operand, inner, reading) : ['equals-ignore-case', operand, inner]
      if (name !== undefined && name !== 'equals-ignore-case')
        return wrong(reading, at.pointer, `is not known here: a ${operator} takes a string or equals-ignore-case`)
      if (name === undefined || !checkString(text, at, reading)) return null
      return textTest(operator, text, ignoring)
    }
    case 'equals-ignore-case':
      return checkString(operand, inner, reading) ? textTest('equals', operand, true) : null
    case 'anything-but':
      return readAnythingBut(operand, inner, reading)
    case 'numeric':
      return place.part === 'headers'
        ? wrong(reading, inner.pointer, 'is not known here: a header is a string, and no number equals one')
        : readNumeric(operand, inner, reading)
    case 'exists':
      if (typeof operand !== 'boolean') return wrong(reading, inner.pointer, 'must be true or false')
      return operand ? () => true : 'absent'
    default:
      return wrong(
        reading,
        inner.pointer,
        'is not an operator: use prefix, suffix, equals-ignore-case, anything-but, numeric or exists',
      )
  }
}

function readAnythingBut(operand: unknown, place: Place, reading: Reading): ScalarTest | null {
  if (isObject(operand)) {
    const [operator, texts, inner] = onlyMember(operand, place, reading)
    if (operator === undefined) return null
    const kind = operator === 'equals-ignore-case' ? 'equals' : operator
    if (kind !== 'prefix' && kind !== 'suffix' && kind !== 'equals')
      return wrong(reading, inner.pointer, 'is not known here: use prefix, suffix or equals-ignore-case')
    const tests = readExcluded(texts, inner, reading, checkString).map((text) =>
      textTest(kind, text, kind === 'equals'),
    )
    return (value) => !tests.some((test) => test(value))
  }
  const excluded = new Set<Scalar>(readExcluded(operand, place, reading, checkExcludable))
  return (value) => !excluded.has(value)
}

/** One value or a list of them; what is wrong is left out, and said. */
function readExcluded<T>(
  operand: unknown,
  place: Place,
  reading: Reading,
  check: (value: unknown, place: Place, reading: Reading) => value is T,
): T[] {
  if (!Array.isArray(operand)) return check(operand, place, reading) ? [operand] : []
  if (operand.length === 0) refuse(reading, place.pointer, 'must have at least one value')
  const values: T[] = []
  for (const [index, value] of operand.entries()) {
    if (isOver(reading)) break
    const inner = { ...place, pointer: `${place.pointer}/${index}` }
    count(inner, reading)
    if (check(value, inner, reading)) values.push(value)
  }
  return values
}

/** One or two comparisons, each a sign and a number; all must hold. */
function readNumeric(operand: unknown, { pointer }: Place, reading: Reading): ScalarTest | null {
  if (!Array.isArray(operand) || (operand.length !== 2 && operand.length !== 4))
    return wrong(reading, pointer, 'must be one or two comparisons, such as [">", 0, "<=", 5]')
  const comparisons = [0, 2].slice(0, operand.length / 2).map((index): ((value: number) => boolean) => {
    const sign: unknown = operand[index]
    const limit: unknown = operand[index + 1]
    const compare = typeof sign === 'string' ? signs.get(sign) : undefined
    if (!compare) refuse(reading, `${pointer}/${index}`, 'must be one of = < <= > >=')
    if (typeof limit === 'number' && Number.isFinite(limit)) return (value) => compare?.(value, limit) ?? false
    refuse(reading, `${pointer}/${index + 1}`, 'must be a number')
    return () => false
  })
  return (value) => typeof value === 'number' && comparisons.every((holds) => holds(value))
}

const signs = new Map<string, (value: number, limit: number) => boolean>([
  ['=', (value, limit) => value === limit],
  ['<', (value, limit) => value < limit],
  ['<=', (value, limit) => value <= limit],
  ['>', (value, limit) => value > limit],
  ['>=', (value, limit) => value >= limit],
])

/**
 * Takes no longer than `text` is long, however long the value is. Folding never shortens, so the part that is compared is no longer than
 * `text`; one unit more, so that no surrogate pair is cut where it would matter.
 */
function textTest(kind: 'prefix' | 'suffix' | 'equals', text: string, ignoreCase: boolean): ScalarTest {
  const fold = (value: string): string => (ignoreCase ? value.toLowerCase().toUpperCase() : value)
  const wanted = fold(text)
  const reach = wanted.length + 1
  return (value) => {
    if (typeof value !== 'string') return false
    if (kind === 'prefix') return fold(value.slice(0, reach)).startsWith(wanted)
    if (kind === 'suffix') return fold(value.slice(-reach)).endsWith(wanted)
    return value.length < reach && fold(value) === wanted
  }
}

/** Whether the value, or of an array one element at any depth, passes. Stops, as if none did, when the budget is spent. */
function someElement(value: unknown, budget: Budget, passes: (element: unknown) => boolean): boolean {
  if (!Array.isArray(value)) return --budget.left >= 0 && passes(value)
  const open: Iterator<unknown>[] = [value.values()]
  for (let list = open.at(-1); list; list = open.at(-1)) {
    const { done, value: element } = list.next()
    if (--budget.left < 0) return false
    if (done) open.pop()
    else if (Array.isArray(element)) open.push(element.values())
    else if (passes(element)) return true
  }
  return false
}

/** The name, the value and the place of an object's one member; no name, and an error, when it has none or several. */
function onlyMember(value: Fields, place: Place, reading: Reading): [string | undefined, unknown, Place] {
  const [entry, ...more] = Object.entries(value)
  if (entry && more.length === 0) return [...entry, { ...place, pointer: `${place.pointer}/${escaped(entry[0])}` }]
  refuse(reading, place.pointer, 'must have exactly one operator')
  return [undefined, undefined, place]
}

function checkScalar(value: unknown, { pointer, part }: Place, reading: Reading): value is Scalar {
  if (!isScalar(value)) refuse(reading, pointer, 'must be a string, a number, true, false, null or an operator')
  else if (typeof value === 'string') checkText(value, pointer, reading)
  else if (part === 'headers') refuse(reading, pointer, 'must be a string, since a header is one')
  return isScalar(value)
}

function checkExcludable(value: unknown, place: Place, reading: Reading): value is string | number {
  if (typeof value === 'string' || typeof value === 'number') return checkScalar(value, place, reading)
  refuse(reading, place.pointer, 'must be a string, a number, a list of them, or prefix, suffix or equals-ignore-case')
  return false
}

function checkString(value: unknown, { pointer }: Place, reading: Reading): value is string {
  if (typeof value === 'string') checkText(value, pointer, reading)
  else refuse(reading, pointer, 'must be a string')
  return typeof value === 'string'
}

/** What Postgres cannot keep in jsonb. The `u` flag makes \p{Cs} match only surrogates without their other half. */
function checkText(text: string, pointer: string, reading: Reading): void {
  if (text.includes('\0') || /\p{Cs}/u.test(text))
    refuse(reading, pointer, 'must be text without U+0000 and without half a surrogate pair')
}

function count({ pointer }: Place, reading: Reading): void {
  if (++reading.values > filterLimits.values)
    refuse(reading, pointer, `is one too many: a filter has at most ${filterLimits.values} values`)
}

const isOver = ({ errors, values }: Reading): boolean =>
  errors.length >= filterLimits.errors || values > filterLimits.values

/** Notes an error; what it returns holds the place of what could not be read. */
function refuse(reading: Reading, pointer: string, detail: string): { test: () => false; combinations: number } {
  if (reading.errors.length < filterLimits.errors) reading.errors.push({ pointer, detail })
  return { combinations: 1, test: () => false }
}

function wrong(reading: Reading, pointer: string, detail: string): null {
  refuse(reading, pointer, detail)
  return null
}

const escaped = (name: string): string => name.replaceAll('~', '~0').replaceAll('/', '~1')

const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isScalar = (value: unknown): value is Scalar =>
  value === null || typeof value === 'string' || typeof value === 'boolean' || Number.isFinite(value)
