/** Group commit: what gathers, what leaves together, and when a run begins beside another. */
import { expect, test } from 'vitest'
import { type BatchOptions, batch } from '../src/base/index.ts'
import { eventually } from './support/postgres.ts'

/** Runs end when they are told to. */
function controlled(more: Partial<BatchOptions<string>> = {}) {
  const runs: { items: readonly string[]; end(error?: Error): void }[] = []
  const call = batch<string, string>(
    (items) =>
      new Promise((resolve, reject) => {
        runs.push({ items, end: (error) => (error ? reject(error) : resolve(items.map((item) => `${item}!`))) })
      }),
    {
      lanes: 2,
      maxWeight: 4,
      weigh: () => 1,
      maxWaiting: 100,
      maxWaitMs: 60_000,
      overloaded: () => new Error('overloaded'),
      harmless: () => true,
      ...more,
    },
  )
  return { runs, call, began: () => runs.map(({ items }) => items.join('')) }
}

/** Everything that is going to happen without time passing has happened. */
const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
}

test('what comes together leaves together, no more than fits, in the order of coming', async () => {
  const { runs, call, began } = controlled()
  const answers = Promise.all(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i'].map(call))
  await settled()
  expect(began()).toEqual(['abcd', 'efgh'])
  runs[1]?.end()
  await settled()
  expect(began()).toEqual(['abcd', 'efgh', 'i'])
  for (const run of runs) run.end()
  expect((await answers).join('')).toBe('a!b!c!d!e!f!g!h!i!')
})

test('a run begins beside another only when enough waits, or when it has waited long enough', async () => {
  const { runs, call, began } = controlled({ beside: { weight: 3, afterMs: 3_600_000 } })
  const first = call('a')
  await settled()
  const others = [call('b'), call('c')]
  await settled()
  expect(began()).toEqual(['a'])
  others.push(call('d'))
  await settled()
  expect(began()).toEqual(['a', 'bcd'])
  const last = call('e')
  await settled()
  expect(began()).toHaveLength(2)
  runs[0]?.end()
  await settled()
  // Beside the other there is still little to do.
  expect(began()).toHaveLength(2)
  runs[1]?.end()
  await settled()
  expect(began()).toEqual(['a', 'bcd', 'e'])
  runs[2]?.end()
  expect(await Promise.all([first, ...others, last])).toEqual(['a!', 'b!', 'c!', 'd!', 'e!'])

  const hasty = controlled({ beside: { weight: 3, afterMs: 1 } })
  const both = [hasty.call('a')]
  await settled()
  both.push(hasty.call('b'))
  // The first never ends by itself.
  await eventually(() => hasty.began().length === 2)
  for (const run of hasty.runs) run.end()
  expect(await Promise.all(both)).toEqual(['a!', 'b!'])
})

test('of a run that failed without doing anything each item is tried alone', async () => {
  const { runs, call } = controlled({ lanes: 1 })
  const answers = Promise.allSettled(['a', 'b'].map(call))
  await settled()
  runs[0]?.end(new Error('one of them is bad'))
  await settled()
  runs[1]?.end(new Error('it was a'))
  await settled()
  runs[2]?.end()
  const [a, b] = await answers
  expect(a).toMatchObject({ status: 'rejected', reason: { message: 'it was a' } })
  expect(b).toMatchObject({ status: 'fulfilled', value: 'b!' })
})

test('what waits is bounded, in weight and in time', async () => {
  const { call, runs } = controlled({ lanes: 1, maxWaiting: 2, maxWaitMs: 5 })
  const first = call('a')
  await settled()
  const waiting = Promise.allSettled([call('b'), call('c')])
  await expect(call('d')).rejects.toThrow('overloaded')
  expect((await waiting).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  runs[0]?.end()
  expect(await first).toBe('a!')
})

test('a patient batch waits for its first run too: until enough waits, or for so long', async () => {
  const { runs, call, began } = controlled({ beside: { weight: 3, afterMs: 3_600_000 }, patient: true })
  const answers = [call('a'), call('b')]
  await settled()
  expect(began()).toEqual([])
  answers.push(call('c'))
  await settled()
  expect(began()).toEqual(['abc'])
  runs[0]?.end()
  expect(await Promise.all(answers)).toEqual(['a!', 'b!', 'c!'])

  const soon = controlled({ beside: { weight: 3, afterMs: 20 }, patient: true })
  const alone = soon.call('d')
  await eventually(() => soon.runs.length === 1)
  soon.runs[0]?.end()
  expect(await alone).toBe('d!')
})

test('what waits is shared among the lanes that are free when it gives each enough calls', async () => {
  const { runs, call, began } = controlled({ worthLane: 3, maxWeight: 100 })
  const answers = [...'abcdefg'].map(call)
  await settled()
  expect(began()).toEqual(['abcd', 'efg'])
  answers.push(...[...'hijklm'].map(call))
  runs[1]?.end()
  await settled()
  // Only one is free.
  expect(began()).toEqual(['abcd', 'efg', 'hijklm'])
  for (const run of runs) run.end()
  await settled()
  answers.push(...[...'nopqr'].map(call))
  await settled()
  // Too few for two.
  expect(began().slice(3)).toEqual(['nopqr'])
  for (const run of runs) run.end()
  expect((await Promise.all(answers)).join('')).toBe([...'abcdefghijklmnopqr'].map((name) => `${name}!`).join(''))
})
