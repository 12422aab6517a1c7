/** Slices of JSON text agree with JSON.parse, whatever the text. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { arrayElements, objectMembers } from '../src/http/json_slices.ts'

const space = fc.string({ unit: fc.constantFrom(' ', '\n', '\t', '\r'), maxLength: 3 })
const key = fc.oneof(fc.string(), fc.constantFrom('body', '__proto__', '"', '\\', '}', 'a":1', '\ud800'))

/** A JSON text with odd spacing. */
const { text } = fc.letrec<{ text: string }>((tie) => ({
  text: fc.oneof(
    { depthSize: 'small' },
    fc.jsonValue().map((value) => JSON.stringify(value)),
    fc.constantFrom('1.00', '-0', '1e400', '123456789012345678901234567890', '"\\u0022\\\\"', '"]}"'),
    fc.array(fc.tuple(space, tie('text'), space)).map((items) => `[${items.map((item) => item.join('')).join(',')} ]`),
    fc
      .array(
        fc.tuple(
          space,
          key.map((name) => JSON.stringify(name)),
          space,
          tie('text'),
          space,
        ),
      )
      .map((items) => `{${items.map(([a, name, b, value, c]) => `${a}${name}${b}:${b}${value}${c}`).join(',')}\n}`),
  ),
}))

describe('slices of JSON', () => {
  test('each member of an object lies where its slice says, the last of a repeated name', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(key, text)), space, (members, gap) => {
        const whole = `${gap}{${members.map(([name, value]) => `${gap}${JSON.stringify(name)}${gap}:${gap}${value}${gap}`).join(',')}}`
        const slices = objectMembers(whole, 0)
        const parsed = Object.entries(JSON.parse(whole) as object)
        expect([...slices.keys()].sort()).toEqual(parsed.map(([name]) => name).sort())
        for (const [name, value] of parsed) {
          const slice = slices.get(name)
          expect(JSON.parse(whole.slice(slice?.start, slice?.end))).toEqual(value)
        }
        for (const [name, value] of new Map(members)) {
          const slice = slices.get(name)
          expect(whole.slice(slice?.start, slice?.end)).toBe(value.trim())
        }
      }),
    )
  })

  test('each element of an array lies where its slice says', () => {
    fc.assert(
      fc.property(fc.array(text), space, (items, gap) => {
        const whole = `${gap}[${items.map((item) => gap + item + gap).join(',')}]`
        expect(arrayElements(whole, 0).map(({ start, end }) => whole.slice(start, end))).toEqual(items)
      }),
    )
  })

  test('depth costs no stack', () => {
    const deep = '{"a":['.repeat(200_000) + ']}'.repeat(200_000)
    expect(arrayElements(`[1,${deep}]`, 0)[1]).toEqual({ start: 3, end: 3 + deep.length })
  })

  test('what was never JSON ends in an error, not in a loop', () => {
    for (const broken of ['{"a"', '{"a":', '{"a":"', '{a:1}', '{"a":[}']) {
      expect(() => objectMembers(broken, 0), broken).toThrow('not the JSON that was parsed')
    }
    for (const broken of ['[', '["', '[1,', '[{']) {
      expect(() => arrayElements(broken, 0), broken).toThrow('not the JSON that was parsed')
    }
  })
})
