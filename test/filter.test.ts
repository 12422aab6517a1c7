/** A filter matches what EventBridge's rules say, an invalid one is refused where it is wrong, and neither takes long. */
import { describe, expect, test } from 'vitest'
import { compileFilter, type Filter, filterLimits, parseFilter } from '../src/model/filter.ts'

type Input = { headers: Record<string, string>; body: unknown }

function parsed(value: unknown): Filter {
  const result = parseFilter(value)
  if ('errors' in result) throw new Error(JSON.stringify(result.errors))
  return result.filter
}
const matches = (filter: unknown, input: Partial<Input>): boolean =>
  compileFilter(parsed(filter)).matches({ headers: {}, body: undefined, ...input })
const pointers = (value: unknown): string[] => {
  const result = parseFilter(value)
  return 'errors' in result ? result.errors.map(({ pointer }) => pointer) : ['none']
}

/** One alternative of the field `a` of the body, and values of that field; undefined: there is none. */
const alternatives: [alternative: unknown, matching: unknown[], other: unknown[]][] = [
  ['x', ['x', ['x'], ['y', 'x'], [[['x']]], [{}, 'x']], ['X', '', 'xx', 1, null, undefined, {}, [], ['y'], { x: 'x' }]],
  ['1', ['1'], [1, true]],
  [1, [1, 1.0, 1, ['1', 1]], ['1', true, 2, null, undefined]],
  [0, [0, -0], [false, '', null, '0']],
  [true, [true, [false, true]], [false, 'true', 1]],
  [false, [false], [true, 'false', 0, null, undefined]],
  [null, [null, [1, null]], [undefined, 'null', 0, false, '', {}, []]],
  ['', ['', ['']], [undefined, null, 'x', []]],
  [{ prefix: 'eu-' }, ['eu-', 'eu-west', ['us', 'eu-1']], ['EU-west', 'e', '', 'x-eu-', 1, null, undefined, ['us']]],
  [{ prefix: '' }, ['', 'x'], [1, null, undefined, []]],
  [{ suffix: '.png' }, ['.png', 'a.png', ['a', 'b.png']], ['a.PNG', 'png', '.png2', '', 1, undefined]],
  [{ suffix: '' }, ['', 'x'], [1, null, undefined]],
  [{ prefix: { 'equals-ignore-case': 'Eu-' } }, ['eu-', 'EU-WEST'], ['e', 'x-eu-', 1, undefined]],
  [{ suffix: { 'equals-ignore-case': '.Png' } }, ['.png', 'a.PNG'], ['png', 'a.png2', 1, undefined]],
  [{ 'equals-ignore-case': 'Alice' }, ['alice', 'ALICE', ['bob', 'aLiCe']], ['alic', 'alicea', 1, null, undefined]],
  [{ 'equals-ignore-case': 'ΟΔΟΣ' }, ['οδος', 'οδοσ', 'Οδός'.normalize('NFD').replace('\u0301', '')], ['οδο']],
  [{ 'equals-ignore-case': 'straße' }, ['STRASSE', 'Straße', 'STRAẞE'], ['strase']],
  [{ prefix: { 'equals-ignore-case': 'SS' } }, ['ß', 'ßx', 'ss', 'sSx'], ['s', 'xss']],
  [{ suffix: { 'equals-ignore-case': '😀A' } }, ['😀a', '😀😀A'], ['😁a', 'a']],
  [{ prefix: { 'equals-ignore-case': 'a😀' } }, ['A😀', 'a😀😀'], ['a😁', 'a']],
  [{ 'anything-but': 'x' }, ['y', '', 'X', 1, null, false, ['x', 'y']], ['x', ['x'], ['x', ['x']], undefined, {}, []]],
  [{ 'anything-but': 1 }, [2, '1', null], [1, undefined]],
  [{ 'anything-but': ['x', 1] }, ['y', 2, '1', ['x', 2]], ['x', 1, ['x', 1], undefined]],
  [{ 'anything-but': { prefix: 'eu' } }, ['us', 'EU', 1, null], ['eu', 'eu-west', undefined, {}]],
  [{ 'anything-but': { suffix: '.png' } }, ['a.jpg', 1], ['a.png', undefined]],
  [{ 'anything-but': { 'equals-ignore-case': 'Init' } }, ['inits', 1], ['init', 'INIT', undefined]],
  [{ 'anything-but': { prefix: ['eu', 'us'] } }, ['ap'], ['eu1', 'us1']],
  [{ 'anything-but': { 'equals-ignore-case': ['a', 'B'] } }, ['c'], ['A', 'b']],
  [{ numeric: ['=', 3.018e2] }, [301.8], [301.7, '301.8', null, undefined]],
  [{ numeric: ['<', 10] }, [9.99, -1e9], [10, 11, '9', null, undefined, []]],
  [{ numeric: ['<=', 10] }, [10, 9], [10.01]],
  [{ numeric: ['>', 10] }, [10.01, [1, 11]], [10, [1, 2]]],
  [{ numeric: ['>=', 10] }, [10, 11], [9.99]],
  [{ numeric: ['>', 0, '<=', 5] }, [0.1, 5], [0, 5.1, -1, [0, 6]]],
  [{ exists: true }, ['', 0, false, null, ['x'], [{}, 1]], [undefined, {}, [], { x: 1 }, [{}], [[]]]],
  [{ exists: false }, [undefined, {}, [], { x: 1 }, [{}], [[]]], ['', 0, false, null, ['x'], [{}, 1]]],
]

describe.each(alternatives)('the alternative %j', (alternative, matching, other) => {
  const filter = { body: { a: [alternative] } }
  const bodyOf = (value: unknown): unknown => (value === undefined ? { b: 1 } : { a: value, b: 1 })
  test.each(matching.map(bodyOf))('matches %j', (body) => expect(matches(filter, { body })).toBe(true))
  test.each(other.map(bodyOf))('does not match %j', (body) => expect(matches(filter, { body })).toBe(false))
})

const wholes: [what: string, filter: unknown, matching: Partial<Input>[], other: Partial<Input>[]][] = [
  [
    'one of the alternatives of a field is enough',
    { body: { a: ['x', 1, { exists: false }] } },
    [{ body: { a: 'x' } }, { body: { a: 1 } }, { body: {} }],
    [{ body: { a: 'y' } }],
  ],
  [
    'all fields must match',
    { headers: { region: ['eu'] }, body: { a: ['x'], b: { c: [1] } } },
    [{ headers: { region: 'eu' }, body: { a: 'x', b: { c: 1, d: 2 }, e: 3 } }],
    [
      { headers: { region: 'us' }, body: { a: 'x', b: { c: 1 } } },
      { headers: {}, body: { a: 'x', b: { c: 1 } } },
      { headers: { region: 'eu' }, body: { a: 'x' } },
      { headers: { region: 'eu' }, body: { a: 'x', c: 1 } },
      { headers: { region: 'eu' }, body: { a: 'x', b: { c: 2 } } },
    ],
  ],
  [
    'header names are compared in lower case, header values as strings',
    { headers: { 'X-Region': ['1', { prefix: 'EU' }] } },
    [{ headers: { 'x-region': '1' } }, { headers: { 'x-region': 'EU-west' } }],
    [{ headers: { 'x-region': 'eu-west' } }, { headers: { region: '1' } }],
  ],
  ['a missing header can be asked for', { headers: { a: [{ exists: false }] } }, [{}], [{ headers: { a: '' } }]],
  [
    'a body that is not JSON matches no body part',
    { body: { a: [{ exists: false }] } },
    [{ body: {} }, { body: 5 }, { body: null }, { body: [] }],
    [{ body: undefined }, { body: { a: 1 } }],
  ],
  [
    'a body that is not an object is compared as a value',
    { body: ['paid', { numeric: ['>', 5] }] },
    [{ body: 'paid' }, { body: 6 }, { body: ['open', 'paid'] }],
    [{ body: 'open' }, { body: { a: 'paid' } }, { body: undefined }],
  ],
  [
    'what lies below a missing field is missing',
    { body: { a: { b: { c: [{ exists: false }] } } } },
    [{ body: {} }, { body: { a: 1 } }, { body: { a: [] } }, { body: { a: { b: [1] } } }],
    [{ body: { a: { b: { c: 1 } } } }, { body: { a: [1, { b: { c: 1 } }] } }],
  ],
  [
    'of an array, one and the same object must match all its fields',
    { body: { staff: { first: ['Anna'], last: ['Smith'] } } },
    [
      { body: { staff: { first: 'Anna', last: 'Smith' } } },
      { body: { staff: [1, { first: 'John' }, { first: 'Anna', last: 'Smith' }] } },
      { body: { staff: [[{ first: 'John' }], [[{ first: ['Anna'], last: 'Smith' }]]] } },
      { body: [{}, { staff: [{ first: 'Anna', last: 'Smith' }] }] },
    ],
    [
      {
        body: {
          staff: [
            { first: 'Anna', last: 'Jones' },
            { first: 'John', last: 'Smith' },
          ],
        },
      },
      { body: { staff: ['Anna', 'Smith'] } },
    ],
  ],
  [
    '$or needs one of its objects, beside the other fields',
    { headers: { a: ['1'] }, $or: [{ headers: { b: ['2'] } }, { body: { c: [3], $or: [{ d: [4] }, { e: [5] }] } }] },
    [
      { headers: { a: '1', b: '2' } },
      { headers: { a: '1' }, body: { c: 3, d: 4 } },
      { headers: { a: '1' }, body: { c: 3, e: 5 } },
    ],
    [
      { headers: { b: '2' } },
      { headers: { a: '1' } },
      { headers: { a: '1' }, body: { c: 3 } },
      { headers: { a: '1' }, body: { d: 4 } },
    ],
  ],
  [
    '$or among headers',
    { headers: { $or: [{ A: ['1'] }, { b: ['2'], c: ['3'] }] } },
    [{ headers: { a: '1' } }, { headers: { b: '2', c: '3' } }],
    [{ headers: { b: '2' } }, {}],
  ],
  ['$or of one', { $or: [{ body: { a: [1] } }] }, [{ body: { a: 1 } }], [{ body: { a: 2 } }]],
]

describe.each(wholes)('%s', (_what, filter, matching, other) => {
  test.each(matching)('matches %j', (input) => expect(matches(filter, input)).toBe(true))
  test.each(other)('does not match %j', (input) => expect(matches(filter, input)).toBe(false))
})

test('whether the body is used is known before it is parsed', () => {
  expect(compileFilter(parsed({ headers: { a: ['1'] } })).usesBody).toBe(false)
  expect(compileFilter(parsed({ $or: [{ headers: { a: ['1'] } }, { body: { a: [1] } }] })).usesBody).toBe(true)
})

describe('names of the prototype are names like any other', () => {
  const json = (text: string): unknown => JSON.parse(text)
  test.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'length'])('%s', (name) => {
    const has = json(`{"body":{"${name}":[{"exists":true}]}}`)
    const hasNot = json(`{"body":{"${name}":{"name":[{"exists":false}]}}}`)
    expect([matches(has, { body: {} }), matches(hasNot, { body: {} })]).toEqual([false, true])
    expect(matches(has, { body: json(`{"${name}":1}`) })).toBe(true)
    expect(matches(has, { body: json('[[1,2],"text"]') })).toBe(false)
    expect(matches(hasNot, { body: json(`{"${name}":{"name":"x"}}`) })).toBe(false)
    expect(matches(json(`{"headers":{"${name}":[{"exists":true}]}}`), { headers: {} })).toBe(false)
    expect(pointers(json(`{"${name}":["x"]}`))).toEqual([`/${name}`])
    expect(pointers(json(`{"body":{"a":[{"${name}":"x"}]}}`))).toEqual([`/body/a/0/${name}`])
    expect(pointers(json(`{"body":{"a":[{"numeric":["${name}",1]}]}}`))).toEqual(['/body/a/0/numeric/0'])
  })
})

test('an inherited field is no field', () => {
  expect(matches({ body: { a: ['x'] } }, { body: Object.create({ a: 'x' }) })).toBe(false)
  expect(matches({ body: { a: [{ exists: false }] } }, { body: Object.create({ a: 'x' }) })).toBe(true)
})

const leaf = (...list: unknown[]) => ({ body: { a: list } })
const invalid: [filter: unknown, pointers: string[]][] = [
  [null, ['']],
  ['x', ['']],
  [[], ['']],
  [{}, ['']],
  [{ subject: ['x'] }, ['/subject']],
  [{ headers: ['x'] }, ['/headers']],
  [{ headers: {} }, ['/headers']],
  [{ headers: { a: { b: ['x'] } } }, ['/headers/a']],
  [{ headers: { a: 'x' } }, ['/headers/a']],
  [{ headers: { a: ['1', 1, true, null] } }, ['/headers/a/1', '/headers/a/2', '/headers/a/3']],
  [{ headers: { a: [{ numeric: ['=', 1] }] } }, ['/headers/a/0/numeric']],
  [{ headers: { a: [{ 'anything-but': 1 }] } }, ['/headers/a/0/anything-but']],
  [{ body: {} }, ['/body']],
  [{ body: [] }, ['/body']],
  [{ body: 'x' }, ['/body']],
  [{ body: { a: 'x', b: 1, c: null, d: {} } }, ['/body/a', '/body/b', '/body/c', '/body/d']],
  [{ body: { 'a/b': { 'c~d': 1 } } }, ['/body/a~1b/c~0d']],
  [{ body: { a: { exists: true } } }, ['/body/a/exists']],
  [{ body: { 'a\0': ['x'] } }, ['/body/a\0']],
  [leaf(), ['/body/a']],
  [leaf(['x']), ['/body/a/0']],
  [leaf('x', undefined), ['/body/a/1']],
  [leaf(Number.POSITIVE_INFINITY), ['/body/a/0']],
  [leaf('\0'), ['/body/a/0']],
  [leaf('\ud800'), ['/body/a/0']],
  [leaf({}), ['/body/a/0']],
  [leaf('x', { prefix: 'x', suffix: 'y' }), ['/body/a/1']],
  [leaf({ wildcard: 'x*' }), ['/body/a/0/wildcard']],
  [leaf({ prefix: 1 }), ['/body/a/0/prefix']],
  [leaf({ prefix: { suffix: 'x' } }), ['/body/a/0/prefix/suffix']],
  [leaf({ suffix: { 'equals-ignore-case': 1 } }), ['/body/a/0/suffix/equals-ignore-case']],
  [leaf({ suffix: {} }), ['/body/a/0/suffix']],
  [leaf({ 'equals-ignore-case': ['x'] }), ['/body/a/0/equals-ignore-case']],
  [leaf({ 'anything-but': null }), ['/body/a/0/anything-but']],
  [leaf({ 'anything-but': [] }), ['/body/a/0/anything-but']],
  [leaf({ 'anything-but': ['x', true] }), ['/body/a/0/anything-but/1']],
  [leaf({ 'anything-but': { numeric: ['=', 1] } }), ['/body/a/0/anything-but/numeric']],
  [leaf({ 'anything-but': { prefix: 1 } }), ['/body/a/0/anything-but/prefix']],
  [leaf({ 'anything-but': { prefix: ['x', 1] } }), ['/body/a/0/anything-but/prefix/1']],
  [leaf({ numeric: 1 }), ['/body/a/0/numeric']],
  [leaf({ numeric: [] }), ['/body/a/0/numeric']],
  [leaf({ numeric: ['>', 1, '<'] }), ['/body/a/0/numeric']],
  [leaf({ numeric: ['>', 1, '<', 2, '<', 3] }), ['/body/a/0/numeric']],
  [leaf({ numeric: ['!=', 1] }), ['/body/a/0/numeric/0']],
  [leaf({ numeric: ['>', '1', '=<', 2] }), ['/body/a/0/numeric/1', '/body/a/0/numeric/2']],
  [leaf({ exists: 'true' }), ['/body/a/0/exists']],
  [{ $or: [] }, ['/$or']],
  [{ $or: { headers: { a: ['x'] } } }, ['/$or']],
  [{ $or: [{ headers: { a: ['x'] } }, 1, {}, { a: ['x'] }] }, ['/$or/1', '/$or/2', '/$or/3/a']],
  [{ body: { a: { $or: [{ b: ['x'] }, { c: 1 }] } } }, ['/body/a/$or/1/c']],
]

test.each(invalid)('%j is refused where it is wrong', (filter, expected) => {
  expect(pointers(filter)).toEqual(expected)
  expect(() => compileFilter({ body: { a: ['x'] }, $or: [filter] })).toThrow(TypeError)
})

describe('limits', () => {
  const nested = (levels: number): unknown =>
    Array.from({ length: levels }).reduce<unknown>((inside) => ({ a: inside }), ['x'])
  const combined = (...sizes: number[]): unknown => ({
    body: Object.fromEntries(
      sizes.map((size, index) => [
        `f${index}`,
        { $or: Array.from({ length: size }, (_, each) => ({ [`a${each}`]: ['x'] })) },
      ]),
    ),
  })
  const values = (amount: number): number[] => Array.from({ length: amount }, (_, index) => index)
  const cases: [what: string, fine: unknown, over: unknown, pointer: string][] = [
    ['depth', { body: nested(9) }, { body: nested(10) }, `/body${'/a'.repeat(9)}`],
    ['values', leaf(...values(1000)), leaf(...values(1001)), '/body/a/1000'],
    [
      'values of anything-but',
      leaf({ 'anything-but': values(999) }),
      leaf({ 'anything-but': values(1000) }),
      '/body/a/0/anything-but/999',
    ],
    ['bytes', leaf('ü'.repeat(8000)), leaf('ü'.repeat(8200)), ''],
    ['combinations', combined(4, 4, 4), combined(5, 13), '/body'],
    ['combinations of one $or', combined(64), combined(65), '/body/f0'],
  ]
  test.each(cases)('%s', (_what, fine, over, pointer) => {
    expect(pointers(fine)).toEqual(['none'])
    expect(pointers(over)).toEqual([pointer])
  })

  test('a filter of a great many levels or errors is refused with a few of them', () => {
    expect(pointers({ body: nested(100_000) })).toEqual([`/body${'/a'.repeat(9)}`])
    const wrong = Object.fromEntries(values(100_000).map((index) => [`f${index}`, index]))
    expect(pointers({ body: wrong })).toHaveLength(filterLimits.errors)
    expect(pointers(leaf(...values(100_000).map(() => [])))).toHaveLength(filterLimits.errors)
  })

  test('a message deeper than any stack is judged', () => {
    const body = JSON.parse(`{"a":${'['.repeat(50_000)}"x"${']'.repeat(50_000)}}`)
    expect(matches(leaf('x'), { body })).toBe(true)
    expect(matches(leaf('y'), { body })).toBe(false)
  })

  test('a message that takes too many steps does not match, whatever is asked', () => {
    const body = { a: [...new Array(filterLimits.steps).fill('y'), 'x'], b: 1 }
    expect(matches(leaf('x'), { body: { a: body.a.slice(-1000) } })).toBe(true)
    expect(matches(leaf('x'), { body })).toBe(false)
    expect(matches({ body: { a: { c: [{ exists: false }] } } }, { body })).toBe(false)
    expect(matches({ $or: [leaf('x'), { body: { b: [1] } }] }, { body })).toBe(false)
    expect(matches({ body: { b: [1] } }, { body })).toBe(true)
  })

  test('steps are counted over the whole filter, operators included', () => {
    const many = leaf(...values(900).map((index) => ({ prefix: `p${index}` })))
    expect(matches(many, { body: { a: [...new Array(50).fill('y'), 'p899'] } })).toBe(true)
    expect(matches(many, { body: { a: [...new Array(200).fill('y'), 'p899'] } })).toBe(false)
  })

  test('folding never shortens a text, and no text depends on its neighbours', () => {
    const fold = (text: string): string => text.toLowerCase().toUpperCase()
    for (let point = 0; point <= 0x10ffff; point++) {
      const text = String.fromCodePoint(point)
      if (fold(text).length < text.length || fold(`A${text}`) !== `A${fold(text)}`) throw new Error(point.toString(16))
    }
  })
})
