/** Topics and bindings, as people create and change them. */
import { BrokerError, defaultTopic, invalid, type Topic, topicLimits } from '../model/index.ts'
import type { Database } from '../store/index.ts'
import * as store from '../store/index.ts'
import { cutPage, pageByName, textCursor } from './cursor.ts'
import { noTopic, type Topics } from './topics.ts'
import type { TopicAdmin, TopicWithCounts } from './types.ts'

type Options = { db: Database; topics: Topics; queueDeleted(queueId: number): void }

export function createTopicAdmin({ db, topics, queueDeleted }: Options): TopicAdmin {
  async function withCounts(list: readonly Topic[]): Promise<TopicWithCounts[]> {
    const counts = await store.countInterests(
      db,
      list.map((topic) => topic.id),
    )
    return list.map((topic) => ({ ...topic, counts: counts.get(topic.id) ?? { bindings: 0, subscriptions: 0 } }))
  }

  async function one(topic: Topic): Promise<TopicWithCounts> {
    const [found] = await withCounts([topic])
    return found as TopicWithCounts
  }

  async function fresh(name: string): Promise<Topic> {
    const topic = await store.findTopic(db, name)
    if (!topic) throw noTopic(name)
    return topic
  }

  const noBinding = (topic: string, name: string) =>
    new BrokerError('binding_not_found', `The topic ${topic} has no binding ${name}.`)

  return {
    async putTopic(name, given) {
      const put = await store.putTopic(db, name, { ...defaultTopic, ...given }, Object.keys(given))
      return { topic: await one(put.topic), created: put.created }
    },
    getTopic: async (name) => one(await fresh(name)),
    async listTopics({ limit, cursor, may }) {
      const page = await pageByName((after, count) => store.listTopics(db, after, count), { limit, cursor }, may)
      return { ...page, data: await withCounts(page.data) }
    },
    async deleteTopic(name, force) {
      const gone = await store.deleteTopic(db, name, force)
      if (!gone) throw noTopic(name)
      if (!gone.deleted)
        throw new BrokerError(
          'topic_not_empty',
          `A subscription of ${name} has messages that are not delivered: delete the topic with ?force=true.`,
        )
      for (const id of gone.backlogIds) queueDeleted(id)
    },
    async putBinding(topic, name, { queue, pattern, filter }) {
      const put = await store.putBinding(db, { topic, name, queue, pattern, filter }, topicLimits.interests)
      if (put) return put
      await fresh(topic)
      const [found] = await store.queuesByName(db, [queue])
      if (!found || found.backlog) throw invalid('/queue', `there is no queue ${queue}: create it first`)
      throw invalid('', `a topic has at most ${topicLimits.interests} bindings and subscriptions`)
    },
    async getBinding(topic, name) {
      const [found] = await store.listBindings(db, topic, { name, afterName: '', limit: 1 })
      if (found) return found
      await fresh(topic)
      throw noBinding(topic, name)
    },
    async listBindings(topic, { limit, cursor }) {
      await fresh(topic)
      const found = await store.listBindings(db, topic, { name: null, afterName: textCursor(cursor), limit: limit + 1 })
      return cutPage(
        found,
        limit,
        (binding) => binding,
        (last) => ({ after: last.name }),
      )
    },
    async deleteBinding(topic, name) {
      if (await store.deleteBinding(db, topic, name)) return
      await fresh(topic)
      throw noBinding(topic, name)
    },
    async testPublish(topic, routingKey, message) {
      const found = (await topics.routes(topic, true)).match(routingKey, message)
      return {
        bindings: found.filter((route) => !route.subscription).map(({ name, queue }) => ({ name, queue })),
        subscriptions: found.filter((route) => route.subscription).map(({ name }) => name),
      }
    },
  }
}
