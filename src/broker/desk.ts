/** What the dispatcher of webhooks asks and reports; see `Desk`. */
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'
import { attemptId, noSubscription } from './admin_subscriptions.ts'
import type { Cluster } from './cluster.ts'
import type { Desk } from './types.ts'

type Options = {
  db: Database
  cluster: Cluster
  /** Nothing that was known of what these queues hold can be relied on. */
  forget(queueId: number): void
}

export type DeskParts = { desk: Desk } & Parameters<Desk['listen']>[0]

export function createDesk({ db, cluster, forget }: Options): DeskParts {
  const { gateway } = cluster
  let listener: Parameters<Desk['listen']>[0] | undefined

  const desk: Desk = {
    keep: (aliveMs) => store.keepOwned(db, gateway, aliveMs),
    claim: (aliveMs, takeOver) => store.claim(db, gateway, aliveMs, takeOver),
    async release(subscriptions) {
      if (subscriptions.length === 0) return
      await store.releaseSubscriptions(db, gateway, subscriptions)
      cluster.subscriptionsFree()
    },
    async retire() {
      await store.retireGateway(db, gateway)
      cluster.subscriptionsFree()
    },
    owned: () => store.ownedBy(db, gateway),
    ownedElsewhere: (subscriptions) => store.ownedByOthers(db, gateway, subscriptions),
    async load(subscriptions) {
      const found = await store.subscriptionsByNumber(db, subscriptions)
      for (const { queueId } of found) forget(queueId)
      return found
    },
    async find(id) {
      const found = await store.findSubscription(db, id)
      if (!found) throw noSubscription(id)
      return found
    },
    recordHealth: (subscription, health) => store.recordHealth(db, gateway, subscription, health),
    async disable({ number, version }, reason) {
      if (await store.setDisabled(db, number, reason, { gateway, version })) cluster.subscriptionChanged(number)
    },
    async recordAttempts(attempts) {
      await store.recordAttempts(db, attempts)
    },
    async recordAttempt(attempt) {
      const [id] = await store.recordAttempts(db, [attempt])
      return id === undefined ? null : attemptId(id)
    },
    listen(on) {
      listener = on
    },
  }
  return {
    desk,
    changed: (subscription) => listener?.changed(subscription),
    free: () => listener?.free(),
    queueChanged: (queueId) => listener?.queueChanged(queueId),
  }
}
