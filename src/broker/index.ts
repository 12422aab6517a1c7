export { type BrokerOptions, createBroker } from './broker.ts'
export type * from './types.ts'
