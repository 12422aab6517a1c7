/** The broker's door: seven functions, what people administer, what the dispatcher reports, and the shapes that pass through. */
import type {
  ApiKey,
  Attempt,
  Binding,
  Delivery,
  DisabledReason,
  Explanation,
  Health,
  Interest,
  LetterFilter,
  MessageChanges,
  MessageState,
  NewKey,
  NewMessage,
  Principal,
  Published,
  Queue,
  QueueCounts,
  QueueKey,
  QueueSettings,
  QueueStats,
  RedriveRequest,
  Schedule,
  ScheduleSettings,
  Sent,
  SettleAction,
  Settled,
  SigningSecret,
  StoredMessage,
  Subscription,
  SubscriptionSettings,
  SubscriptionSource,
  Task,
  Topic,
  TopicSettings,
} from '../model/index.ts'
import type { NewAttempt, StoredSubscription } from '../store/index.ts'
import type { Diagnosis } from './diagnosis.ts'
import type { Watch } from './watch.ts'

export type ReceiveOptions = {
  /** 1–1000. */
  max: number
  /** How long to wait for the first message; 0 answers at once. */
  waitMs: number
  /** null: the queue's lease. */
  leaseMs: number | null
  /** Aborts when the caller has gone; nothing stays leased for it. */
  signal: AbortSignal
  /** At most so many of one key; those without a key are not limited. */
  perKey?: number
  /** The number of the subscription it is for: nothing comes unless this gateway owns it. */
  subscription?: number
  /** The id of whoever asks, for those who look who holds a message. */
  by?: string
  /**
   * Unique to the caller and this receive. A retry with the same one gets what is still leased by the first, under the same receipts,
   * until those leases end; and what a caller that has gone was leased stays leased for its retry.
   */
  retryKey?: string | null
}

export type Received = {
  messages: Delivery[]
  /** For an answer that provably was not written: the messages are ready again at once, the attempt is not counted. Nothing with a retryKey. */
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
export type TopicWithCounts = Topic & { counts: { bindings: number; subscriptions: number } }
export type SubscriptionWithCounts = Subscription & { counts: QueueCounts }
/** `nextFires`: the next five; none while it is paused. */
export type ScheduleWithFires = Schedule & { nextFires: Date[] }

export type TopicAdmin = {
  /** Creates the topic or changes the settings given. */
  putTopic(name: string, settings: Partial<TopicSettings>): Promise<{ topic: TopicWithCounts; created: boolean }>
  /** Throws topic_not_found, as all of these that take a topic's name. */
  getTopic(name: string): Promise<TopicWithCounts>
  /** Ordered by name. `may` hides topics from callers that may not see them. */
  listTopics(options: PageOptions & { may(topic: string): boolean }): Promise<Page<TopicWithCounts>>
  /** With its bindings and subscriptions. Throws topic_not_empty when a backlog holds messages, unless forced. */
  deleteTopic(name: string, force: boolean): Promise<void>
  /** Throws invalid_value for a queue that is not there. */
  putBinding(
    topic: string,
    name: string,
    binding: Interest & { queue: string },
  ): Promise<{ binding: Binding; created: boolean }>
  /** Throws binding_not_found. */
  getBinding(topic: string, name: string): Promise<Binding>
  listBindings(topic: string, options: PageOptions): Promise<Page<Binding>>
  deleteBinding(topic: string, name: string): Promise<void>
  /** Where a message would go if it were published now. Stores nothing. */
  testPublish(
    topic: string,
    routingKey: string,
    message: NewMessage,
  ): Promise<{ bindings: { name: string; queue: string }[]; subscriptions: string[] }>
}

export type ReplayRange = {
  /** `dead`: dead letters; `past`: all that the topic has kept, whatever became of it. */
  state: 'dead' | 'past'
  from: Date | null
  to: Date | null
}

export type SubscriptionAdmin = {
  /** Throws invalid_value for a queue or topic that is not there. */
  createSubscription(
    source: SubscriptionSource,
    settings: SubscriptionSettings,
    secret: string,
  ): Promise<SubscriptionWithCounts>
  /** Throws subscription_not_found, as all of these that take an id. */
  getSubscription(id: string): Promise<SubscriptionWithCounts>
  /** In the order of creation. `may` hides some from callers that may not see them. */
  listSubscriptions(
    options: PageOptions & {
      queue: string | null
      topic: string | null
      may(subscription: Subscription): boolean
    },
  ): Promise<Page<SubscriptionWithCounts>>
  /** Throws changed_meanwhile, and invalid_value for an interest in a queue's messages. */
  updateSubscription(
    id: string,
    changes: Partial<SubscriptionSettings> & Partial<Interest>,
  ): Promise<SubscriptionWithCounts>
  /** On a topic its backlog goes with it. */
  deleteSubscription(id: string): Promise<void>
  /** Enabling forgets past failures. */
  enableSubscription(id: string): Promise<SubscriptionWithCounts>
  disableSubscription(id: string): Promise<SubscriptionWithCounts>
  /** The present secret signs, beside the new one, until `graceMs` are over. */
  rotateSecret(id: string, secret: string, graceMs: number): Promise<SigningSecret[]>
  /** Live ones, the newest first. */
  secretsOf(id: string): Promise<SigningSecret[]>
  /** How many messages were made ready again. Throws invalid_value for past messages of a queue, which keeps none. */
  replay(id: string, range: ReplayRange): Promise<number>
  /** Newest first. */
  listAttempts(id: string, options: PageOptions & { outcome: Attempt['outcome'] | null }): Promise<Page<Attempt>>
}

/** `check` is asked under the schedule's lock with what is there, and throws when the caller may not change that. */
export type ScheduleAdmin = {
  /**
   * Creates the schedule or replaces it whole; `paused` null: as it was. Unchanged cron and timezone keep the time of the next fire. Throws
   * invalid_value for a cron that never fires and a queue or topic that is not there, changed_meanwhile.
   */
  putSchedule(
    name: string,
    settings: Omit<ScheduleSettings, 'paused'> & { paused: boolean | null },
    check: (before: Schedule | null) => void,
  ): Promise<{ schedule: ScheduleWithFires; created: boolean }>
  /** Throws schedule_not_found, as all of these that take a name. */
  getSchedule(name: string): Promise<ScheduleWithFires>
  /** Ordered by name. `may` hides some from callers that may not see them. */
  listSchedules(options: PageOptions & { may(schedule: Schedule): boolean }): Promise<Page<ScheduleWithFires>>
  deleteSchedule(name: string, check: (schedule: Schedule) => void): Promise<void>
  pauseSchedule(name: string, check: (schedule: Schedule) => void): Promise<ScheduleWithFires>
  /** From now on; fires of the pause are not made up for. */
  resumeSchedule(name: string, check: (schedule: Schedule) => void): Promise<ScheduleWithFires>
  /** Sends now, also while it is paused. Throws what a send or a publish throws, and records it. */
  runSchedule(name: string, check: (schedule: Schedule) => void): Promise<{ id: string; at: Date }>
}

/** A subscription as its dispatcher needs it. */
export type Assignment = StoredSubscription

/**
 * For the edge that pushes: which subscriptions this gateway is to deliver for, and what it has to report. What it does not own
 * (any more) it cannot lease for, and its reports about it change nothing.
 */
export type Desk = {
  /** A heartbeat: owned subscriptions stay owned for `aliveMs`; free ones are taken up to a
   * fair share, those of dead gateways (`inherited`) only with `takeOver`. `excess`: held beyond that share. */
  claim(aliveMs: number, takeOver: boolean): Promise<{ taken: number[]; inherited: number[]; excess: number }>
  /** A heartbeat of a gateway that is leaving: it keeps what it has not released yet, and has no share any more. */
  keep(aliveMs: number): Promise<void>
  release(subscriptions: readonly number[]): Promise<void>
  /** Gives everything back. */
  retire(): Promise<void>
  /** Versions by number. */
  owned(): Promise<Map<number, number>>
  /** Those of them that another gateway owns. */
  ownedElsewhere(subscriptions: readonly number[]): Promise<Set<number>>
  load(subscriptions: readonly number[]): Promise<Assignment[]>
  find(id: string): Promise<Assignment>
  /** Returns for how long it has been failing, by Postgres's clock. */
  recordHealth(
    subscription: number,
    health: Pick<Health, 'circuit' | 'failures'> & { failing: boolean; heldMs: number | null },
  ): Promise<{ failingMs: number }>
  /** Unless it has been changed since this version. */
  disable(assignment: Pick<Assignment, 'number' | 'version'>, reason: DisabledReason): Promise<void>
  /** A subscription that is gone leaves none. */
  recordAttempts(attempts: readonly AttemptReport[]): Promise<void>
  /** Its id; null: the subscription is gone. */
  recordAttempt(attempt: AttemptReport): Promise<string | null>
  /**
   * `changed`: this subscription is not as it was. `free`: some subscription has no gateway. `queueChanged`: a queue's settings are
   * others, or some of its messages are gone; said here before whoever changed it has an answer. One listener.
   */
  listen(on: { changed(subscription: number): void; free(): void; queueChanged(queueId: number): void }): void
}

export type AttemptReport = NewAttempt

export type LetterAdmin = {
  /**
   * Begins a task that makes dead letters ready again: those of the queue, and of a dead-letter queue also the ready messages that came
   * to it as dead letters. `may` is asked for each queue to which letters would return when `to` is null. Throws queue_not_found,
   * forbidden, and invalid_value when the letters would never rest.
   */
  redrive(queue: string, request: RedriveRequest, may: (queue: string) => boolean): Promise<Task>
  /** Throws task_not_found. */
  getTask(id: string): Promise<Task>
  /** Newest first; `queue` null: of all. `may` hides some from callers that may not see them. */
  listTasks(options: PageOptions & { queue: string | null; may(task: Task): boolean }): Promise<Page<Task>>
  /** After it the task does nothing more; one that is finished stays as it is. */
  cancelTask(id: string): Promise<void>
  /** Throws message_not_found, message_leased, queue_full, and invalid_value for a delay of a dead letter. */
  changeMessage(queue: string, id: string, changes: MessageChanges): Promise<StoredMessage>
  /** How many were deleted, of what lay there when it began; stops when the caller has gone. */
  deleteMessages(
    queue: string,
    state: 'dead' | 'ready' | 'delayed',
    options: { filter: LetterFilter; limit: number | null; signal: AbortSignal },
  ): Promise<number>
}

export type Admin = TopicAdmin &
  SubscriptionAdmin &
  ScheduleAdmin &
  LetterAdmin & {
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
    /** `targetAgeMs`: how old messages may become; it says how many consumers are desired. Standard: a minute. */
    queueStats(name: string, targetAgeMs?: number): Promise<QueueStats>
    /** Without leasing; at most 16 MiB of bodies a page. */
    browseMessages(queue: string, state: MessageState, options: PageOptions): Promise<Page<StoredMessage>>
    /** Throws message_not_found. */
    getMessage(queue: string, id: string): Promise<StoredMessage>
    deleteMessage(queue: string, id: string): Promise<void>
    /** Why it is where it is. Throws message_not_found for one of which nothing is known. */
    explainMessage(queue: string, id: string): Promise<Explanation>
    /** Keys with messages that wait behind others, or (`blocked`) those that a dead letter has stopped. In the order of the keys. */
    browseKeys(queue: string, blocked: boolean, options: PageOptions): Promise<Page<QueueKey>>
    /** `retry`: its dead letters once more; `drop`: on with the next. Throws key_not_blocked, message_not_found. */
    unblockKey(queue: string, key: string, action: 'retry' | 'drop'): Promise<void>
    /** The secret is returned here and never again. */
    createKey(key: NewKey): Promise<ApiKey & { secret: string }>
    listKeys(options: PageOptions): Promise<Page<ApiKey>>
    /** Throws key_not_found. Every gateway refuses the key within a second. */
    deleteKey(id: string): Promise<void>
    diagnosis: Diagnosis
  }

export type Broker = {
  /**
   * Stores messages, all in one commit. Resolves after it, in the order given; a message that a full queue refused
   * is an error in its place, and with `atomic` one refusal throws and stores nothing.
   * Throws queue_not_found, queue_full, unavailable (it may have been stored all the same).
   */
  send(queue: string, messages: readonly NewMessage[], options?: { atomic?: boolean }): Promise<(Sent | Error)[]>
  /**
   * Stores a copy of the message in every queue and backlog that the topic's bindings and subscriptions match, all in one commit.
   * Throws topic_not_found, queue_full (nothing is published), unavailable.
   */
  publish(topic: string, routingKey: string, message: NewMessage): Promise<Published>
  /** Leases up to `max` messages, waiting up to `waitMs` for the first. Throws queue_not_found, unavailable. */
  receive(queue: string, options: ReceiveOptions): Promise<Received>
  /** Resolves after the commit, in the order given. Throws forbidden, queue_not_found, unavailable. */
  settle(actions: readonly SettleAction[], options: SettleOptions): Promise<Settled[]>
  /**
   * Who holds this API key; null when nobody does, or it has expired or was revoked. `guessing` is called before anything is looked up
   * for a key that was not valid here lately; it may throw.
   */
  authenticate(secret: string, guessing?: () => void): Promise<Principal | null>
  admin: Admin
  desk: Desk
  watch: Watch
  /** Begins upkeep and listening to other gateways. */
  start(): Promise<void>
  /**
   * Answers waiting receivers with nothing, then finishes what is under way, `drainMs` at the most. Settling goes on until `edges`
   * have stopped.
   */
  stop(drainMs: number, edges?: Promise<unknown>): Promise<void>
}
