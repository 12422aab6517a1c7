/** Throwaway. */
import { randomBytes } from 'node:crypto'
import type { Broker } from '../../src/broker/index.ts'
import { BrokerError, defaultSettings, messageId, type NewMessage, type Queue } from '../../src/model/index.ts'

type Row = { id: string; m: NewMessage; state: 'ready' | 'leased' | 'dead'; attempt: number; receipt: string; at: Date }
export function memoryBroker(): Broker {
  const queues = new Map<string, { q: Queue; rows: Row[] }>()
  let n = 1
  const find = (name: string) => {
    const found = queues.get(name)
    if (!found) throw new BrokerError('queue_not_found', 'no such queue')
    return found
  }
  const counts = (rows: Row[]) => ({ ready: rows.filter((r) => r.state === 'ready').length, delayed: 0, leased: rows.filter((r) => r.state === 'leased').length, dead: 0 })
  const stored = (r: Row) => ({ id: r.id, state: r.state, body: r.m.body, contentType: r.m.contentType, headers: r.m.headers ?? {}, key: r.m.key, priority: r.m.priority, attempts: r.attempt, enqueuedAt: r.at, expiresAt: null, availableAt: null, leaseExpiresAt: null, dead: null })
  return {
    async send(queue, messages) {
      const { rows } = find(queue)
      return messages.map((m) => {
        const row: Row = { id: messageId(n++), m, state: 'ready', attempt: 0, receipt: '', at: new Date() }
        rows.push(row)
        return { id: row.id, availableAt: row.at, deduplicated: false }
      })
    },
    async receive(queue, o) {
      const { rows } = find(queue)
      const take = () => rows.filter((r) => r.state === 'ready').slice(0, o.max)
      let got = take()
      const until = Date.now() + o.waitMs
      while (got.length === 0 && Date.now() < until && !o.signal.aborted) {
        await new Promise((r) => setTimeout(r, 5))
        got = take()
      }
      for (const r of got) { r.state = 'leased'; r.attempt++; r.receipt = randomBytes(36).toString('base64url') }
      return { messages: got.map((r) => ({ id: r.id, receipt: r.receipt, body: r.m.body, contentType: r.m.contentType, headers: r.m.headers ?? {}, key: r.m.key, priority: r.m.priority, attempt: r.attempt, enqueuedAt: r.at, leaseExpiresAt: r.at })), giveBack: async () => { for (const r of got) { r.state = 'ready'; r.attempt-- } } }
    },
    async settle(actions) {
      return actions.map((a) => {
        if (a.receipt.length !== 48) return { receipt: a.receipt, outcome: 'invalid_receipt', leaseExpiresAt: null }
        return { receipt: a.receipt, outcome: a.action === 'ack' ? 'acked' : a.action === 'extend' ? 'extended' : a.action === 'nack' ? 'nacked' : 'rejected', leaseExpiresAt: a.action === 'extend' ? new Date() : null }
      })
    },
    async authenticate() { return null },
    admin: {
      async putQueue(name, settings) {
        const had = queues.get(name)
        const q = { ...(had?.q ?? { ...defaultSettings, id: n++, name, createdAt: new Date(), updatedAt: new Date() }), ...settings } as Queue
        queues.set(name, { q, rows: had?.rows ?? [] })
        return { queue: { ...q, counts: counts(had?.rows ?? []) }, created: !had }
      },
      async getQueue(name) { const f = find(name); return { ...f.q, counts: counts(f.rows) } },
      async listQueues() { return { data: [...queues.values()].map((f) => ({ ...f.q, counts: counts(f.rows) })), nextCursor: null } },
      async deleteQueue(name) { find(name); queues.delete(name) },
      async purgeQueue(name) { const f = find(name); return f.rows.splice(0).length },
      async queueStats(name) { const f = find(name); return { ...counts(f.rows), oldestReadyAgeS: 0, inRate: 0, outRate: 0, drainS: 0, desiredConsumers: 0 } },
      async browseMessages(name, state) { return { data: find(name).rows.filter((r) => r.state === state).map(stored), nextCursor: null } },
      async getMessage(name, id) { const r = find(name).rows.find((r) => r.id === id); if (!r) throw new BrokerError('message_not_found', 'x'); return stored(r) },
      async deleteMessage() {},
      async createKey(k) { return { id: 'key_1', ...k, createdAt: new Date(), secret: 's' } },
      async listKeys() { return { data: [], nextCursor: null } },
      async deleteKey() {},
      async problems() { return [] },
    },
    async start() {},
    async stop() {},
  }
}
