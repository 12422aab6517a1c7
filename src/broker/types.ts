/** The broker's door: seven functions, and the shapes that pass through it. */
import type {
  ApiKey,
  Delivery,
  MessageState,
  NewMessage,
  Principal,
  Queue,
  QueueCounts,
  QueueSettings,
  QueueStats,
  Scope,
  Sent,
  SettleAction,
  Settled,
  StoredMessage,
} from '../model/index.ts'

export type ReceiveOptions = {
  /** 1–1000. */
  max: number
  /** How long to wait for the first message; 0 answers at once. */
  waitMs: number
  /** null: the queue's lease. */
  leaseMs: number | null
  /** Aborts when the caller has gone; nothing stays leased for it. */
  signal: AbortSignal
}

export type Received = {
  messages: Delivery[]
  /** For an answer that provably was not written: the messages are ready again at once, the attempt is not counted. */
  giveBack(): Promise<void>
}

export type SettleOptions = {
  /** Receipts of any other queue are `invalid_receipt`. null: whichever queue the receipt names. */
  queue: string | null
  /** Asked with the queue's name before anything is changed; false throws `forbidden`. */
  may(queue: string): boolean
}

export type Page<T> = { data: T[]; nextCursor: string | null }
export type PageOptions = { limit: number; cursor: string | null }
export type QueueWithCounts = Queue & { counts: QueueCounts }

export type Admin = {
  /** Creates the queue or changes the settings given. Throws setting_is_fixed (order), invalid_value (dead_letter_queue). */
  putQueue(name: string, settings: Partial<QueueSettings>): Promise<{ queue: QueueWithCounts; created: boolean }>
  /** Throws queue_not_found, as all of these that take a queue's name. */
  getQueue(name: string): Promise<QueueWithCounts>
  /** Ordered by name. `may` hides queues from callers that may not see them. */
  listQueues(options: PageOptions & { may(queue: string): boolean }): Promise<Page<QueueWithCounts>>
  /** Throws queue_not_empty unless forced. Waiting receivers are answered. */
  deleteQueue(name: string, force: boolean): Promise<void>
  /** Deletes every ready, delayed and leased message; dead letters only with `dead`. Returns how many. */
  purgeQueue(name: string, states: readonly MessageState[]): Promise<number>
  queueStats(name: string): Promise<QueueStats>
  /** Without leasing; at most 16 MiB of bodies a page. */
  browseMessages(queue: string, state: MessageState, options: PageOptions): Promise<Page<StoredMessage>>
  /** Throws message_not_found. */
  getMessage(queue: string, id: string): Promise<StoredMessage>
  deleteMessage(queue: string, id: string): Promise<void>
  /** The secret is returned here and never again. */
  createKey(key: { name: string; scopes: Scope[]; expiresAt: Date | null }): Promise<ApiKey & { secret: string }>
  listKeys(options: PageOptions): Promise<Page<ApiKey>>
  /** Throws key_not_found. Every gateway refuses the key within a second. */
  deleteKey(id: string): Promise<void>
  /** What stands in the way of serving; empty when ready. */
  problems(): Promise<string[]>
}

export type Broker = {
  /**
   * Stores messages, all in one commit. Resolves after it, in the order given; a message that a full queue refused
   * is an error in its place, and with `atomic` one refusal throws and stores nothing.
   * Throws queue_not_found, queue_full, unavailable (it may have been stored all the same).
   */
  send(queue: string, messages: readonly NewMessage[], options?: { atomic?: boolean }): Promise<(Sent | Error)[]>
  /** Leases up to `max` messages, waiting up to `waitMs` for the first. Throws queue_not_found, unavailable. */
  receive(queue: string, options: ReceiveOptions): Promise<Received>
  /** Resolves after the commit, in the order given. Throws forbidden, queue_not_found, unavailable. */
  settle(actions: readonly SettleAction[], options: SettleOptions): Promise<Settled[]>
  /** Who holds this API key; null when nobody does, or it has expired or was revoked. */
  authenticate(secret: string): Promise<Principal | null>
  admin: Admin
  /** Begins upkeep and listening to other gateways. */
  start(): Promise<void>
  /** Answers waiting receivers with nothing, then finishes what is under way. `drainMs` at the most. */
  stop(drainMs: number): Promise<void>
}
