export { type BrokerOptions, createBroker } from './broker.ts'
export { databaseProblems } from './diagnosis.ts'
export type * from './types.ts'
export type { GatewayState, QueueState, Watch } from './watch.ts'
