/** Every metric that a gateway serves: its name, its kind, its labels, and what it says. What is not here is not served. */

export type Metric = {
  type: 'counter' | 'gauge' | 'histogram'
  labels: readonly string[]
  /** Of a histogram: upper bounds of its buckets. */
  buckets?: readonly number[]
  help: string
}

/** From a message just handed over to one that waited for a day. */
const ages = [0.005, 0.025, 0.1, 0.5, 1, 5, 30, 60, 300, 1800, 7200, 86_400]
const times = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5]
const requests = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 20, 60]
const attempts = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]
const calls = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]

const counter = (help: string, ...labels: string[]): Metric => ({ type: 'counter', labels, help })
const gauge = (help: string, ...labels: string[]): Metric => ({ type: 'gauge', labels, help })
const histogram = (buckets: readonly number[], help: string, ...labels: string[]): Metric => ({
  type: 'histogram',
  labels,
  buckets,
  help,
})

export const metrics = {
  postern_info: gauge('Always 1; the version of this gateway.', 'version'),

  postern_queue_messages: gauge(
    'Messages in the queue by state (ready, delayed, leased, dead), counted in the database: every gateway says the same, so take the maximum.',
    'queue',
    'state',
  ),
  postern_queue_oldest_ready_seconds: gauge(
    'How long ago the oldest message that is ready was sent; 0 when none is.',
    'queue',
  ),
  postern_queue_paused: gauge('1 when the queue is paused.', 'queue'),
  postern_queue_waiting_receives: gauge('Receives that wait for this queue at this gateway.', 'queue'),
  postern_queue_counts_age_seconds: gauge(
    'How long ago the messages were counted: deep backlogs are counted less often.',
  ),

  postern_messages_sent_total: counter(
    'Messages that this gateway stored in the queue, copies of publishes included.',
    'queue',
  ),
  postern_messages_deduplicated_total: counter(
    'Messages that were not stored because their dedup_id was known.',
    'queue',
  ),
  postern_messages_refused_total: counter('Messages that were not stored because the queue was full.', 'queue'),
  postern_messages_leased_total: counter('Deliveries: messages that this gateway leased to somebody.', 'queue'),
  postern_messages_settled_total: counter(
    'What became of settled leases: acked, nacked, rejected, extended, lease_lost.',
    'queue',
    'outcome',
  ),
  postern_leases_expired_total: counter('Leases that ended by themselves, so that the message came back.', 'queue'),
  postern_messages_dead_lettered_total: counter(
    'Messages of the queue that became dead letters, and why: max_attempts, rejected, expired, gone.',
    'queue',
    'reason',
  ),
  postern_messages_expired_total: counter(
    'Messages whose ttl was over and of which nothing was kept; dead-lettered ones are not among them.',
    'queue',
  ),
  postern_publishes_total: counter(
    'Publishes to topics: stored, unmatched (no binding matched, so nothing was stored), deduplicated (their dedup_id was known), refused (a queue was full).',
    'outcome',
  ),
  postern_schedule_fires_total: counter(
    'Times at which a schedule was due and this gateway dealt with it: sent, failed (its queue full, or the target gone), missed (passed over, as misfire says).',
    'outcome',
  ),
  postern_message_delivery_seconds: histogram(
    ages,
    "From the send to the first lease of a message, by Postgres's clock; a delay that was asked for counts too.",
    'queue',
  ),

  postern_batch_calls: histogram(
    calls,
    'Calls that left together in one statement (send, publish, lease, ack, release, extend).',
    'kind',
  ),
  postern_mark_sweep_seconds: histogram(
    times,
    'Leases that looked from the beginning of their queue instead of from the mark.',
  ),

  postern_http_requests_total: counter('Requests that were answered.', 'method', 'route', 'status'),
  postern_http_request_seconds: histogram(
    requests,
    'From the head of a request to its answer; of a long poll, the wait too.',
    'route',
  ),
  postern_http_requests_under_way: gauge('Requests that are being answered, long polls included.'),

  postern_webhook_attempts_total: counter(
    'HTTP calls to the endpoint, by what was answered (2xx to 5xx, or none) and what follows (settle, retry, dead).',
    'subscription',
    'answer',
    'verdict',
  ),
  postern_webhook_attempt_seconds: histogram(
    attempts,
    'From dialling to the end of the answer that is kept.',
    'subscription',
  ),
  postern_webhook_delivery_seconds: histogram(
    ages,
    'From the send of a message to the 2xx that settled it, retries and delays included.',
    'subscription',
  ),
  postern_webhook_under_way: gauge('Attempts under way, at the gateway that delivers for it.', 'subscription'),
  postern_webhook_circuit_open: gauge(
    '1 when the circuit is open or half open, at the gateway that delivers for it.',
    'subscription',
  ),
  postern_webhook_subscriptions: gauge(
    'Subscriptions by state: enabled, or disabled because it was requested, the endpoint is gone (410), or it was failing for days.',
    'state',
  ),

  postern_database_up: gauge('1 when the database answered for this scrape.'),
  postern_database_statement_seconds: histogram(
    times,
    'Statements by name, the wait for a connection included.',
    'statement',
  ),
  postern_database_statement_failures_total: counter(
    'Statements that failed: refused by Postgres (failed), or not answered (unavailable).',
    'statement',
    'reason',
  ),
  postern_database_pool_connections: gauge('Connections that the pool may have.', 'pool'),
  postern_database_pool_statements: gauge('Statements that run or wait for a connection of the pool.', 'pool'),
  postern_database_listening: gauge(
    '1 when announcements of other gateways arrive (LISTEN); without them queues are swept every second.',
  ),
  postern_peers: gauge('Other gateways that were heard in the last seconds.'),
  postern_database_oldest_transaction_seconds: gauge(
    'Age of the oldest transaction that holds back vacuum in this database, as far as the role of the gateway may see; 0 when none does.',
  ),
  postern_database_dead_rows: gauge(
    'Deleted rows that vacuum has not removed yet, as Postgres estimates them.',
    'table',
  ),
  postern_trace_exports_failed_total: counter('Batches of spans that the collector did not take.'),

  postern_process_cpu_seconds_total: counter('CPU time of the process.'),
  postern_process_start_time_seconds: gauge('When the process started, in seconds since 1970.'),
  postern_process_resident_memory_bytes: gauge('Resident memory of the process.'),
  postern_process_memory_limit_bytes: gauge(
    "What the process may use: its container's limit, or else the memory of the machine.",
  ),
  postern_process_open_fds: gauge('Open file descriptors, connections included.'),
  postern_process_max_fds: gauge('File descriptors that may be open.'),
  postern_nodejs_eventloop_lag_mean_seconds: gauge('How late timers ran since the last scrape, on average.'),
  postern_nodejs_eventloop_lag_p99_seconds: gauge('How late one timer in a hundred ran since the last scrape.'),
  postern_nodejs_heap_size_used_bytes: gauge("JavaScript's heap in use."),
  postern_nodejs_external_memory_bytes: gauge('Memory outside the heap: buffers, bodies of messages above all.'),
  postern_nodejs_gc_duration_seconds: histogram([0.001, 0.01, 0.1, 1], 'Garbage collections by kind.', 'kind'),
} as const satisfies Record<string, Metric>

export type MetricName = keyof typeof metrics

/** A table in Markdown, as the operators' page has it. */
export const metricsTable = (): string =>
  [
    '| Metric | Type | Labels | Meaning |',
    '| --- | --- | --- | --- |',
    ...Object.entries(metrics).map(
      ([name, { type, labels, help }]) =>
        `| \`${name}\` | ${type} | ${labels.map((label) => `\`${label}\``).join(' ')} | ${help} |`,
    ),
  ].join('\n')
