export * from './batch.ts'
export * from './clock.ts'
export * from './loop.ts'
export * from './pace.ts'
