/** All that the REST edge serves. A resource is added by adding its list here. */
import { batchEndpoints } from './batch.ts'
import { bindingEndpoints } from './bindings.ts'
import { docsEndpoints } from './docs.ts'
import { openApiDocument } from './document.ts'
import type { Endpoint } from './endpoint.ts'
import { explainEndpoints } from './explain.ts'
import { keyEndpoints } from './keys.ts'
import { leaseEndpoints } from './leases.ts'
import { messageChangeEndpoints } from './message_changes.ts'
import { messageEndpoints } from './messages.ts'
import { metricsEndpoints } from './metrics.ts'
import { operationEndpoints } from './operations.ts'
import { publishEndpoints } from './publish.ts'
import { queueKeyEndpoints } from './queue_keys.ts'
import { queueEndpoints } from './queues.ts'
import { receiveEndpoints } from './receive.ts'
import { redriveEndpoints } from './redrive.ts'
import { scheduleEndpoints } from './schedules.ts'
import { settleEndpoints } from './settle.ts'
import { subscriptionActionEndpoints } from './subscription_actions.ts'
import { subscriptionEndpoints } from './subscriptions.ts'
import { topicEndpoints } from './topics.ts'

const api: readonly Endpoint[] = [
  ...queueEndpoints,
  ...queueKeyEndpoints,
  ...messageEndpoints,
  ...messageChangeEndpoints,
  ...explainEndpoints,
  ...batchEndpoints,
  ...receiveEndpoints,
  ...leaseEndpoints,
  ...settleEndpoints,
  ...redriveEndpoints,
  ...topicEndpoints,
  ...bindingEndpoints,
  ...publishEndpoints,
  ...subscriptionEndpoints,
  ...subscriptionActionEndpoints,
  ...scheduleEndpoints,
  ...keyEndpoints,
  ...operationEndpoints,
  ...metricsEndpoints,
]

export const endpoints: readonly Endpoint[] = [...api, ...docsEndpoints(() => openApiDocument(endpoints))]
