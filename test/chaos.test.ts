/** The short form of `npm run chaos`: the same suite with few faults, and a rolling restart. */
import { expect, test } from 'vitest'
import { faultNames } from '../chaos/faults.ts'
import { run } from '../chaos/run.ts'

/** What a machine that runs tests need not allow. */
const faults = faultNames.filter((name) => name !== 'fill the disk')

test('gateways and Postgres are killed, frozen and cut off under load, and every promise holds', async () => {
  const { violations, history } = await run({ seed: 7, seconds: 12, gapMs: 1100, faults, log: () => {} })
  // A second try that holds takes nothing back.
  for (const violation of violations) console.error('VIOLATION', violation)
  expect(violations).toEqual([])
  expect(history.sends.length).toBeGreaterThan(100)
  expect(history.deliveries.length).toBeGreaterThan(100)
  expect(history.calls.length).toBeGreaterThan(10)
}, 180_000)

test('a rolling restart of three gateways: no client that retries sees a failure, nothing is lost', async () => {
  const { violations, history } = await run({ seed: 8, seconds: 3, rolling: true, log: () => {} })
  expect(violations).toEqual([])
  expect(history.sends.length).toBeGreaterThan(50)
}, 180_000)
