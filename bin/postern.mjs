#!/usr/bin/env node
// The built program where there is one, else the source through tsx.
import { existsSync } from 'node:fs'

const built = new URL('../dist/cli.js', import.meta.url)
if (existsSync(built)) await import(built.href)
else {
  const { register: tsx } = await import('tsx/esm/api')
  tsx()
  await import(new URL('../src/cli.ts', import.meta.url).href)
}
