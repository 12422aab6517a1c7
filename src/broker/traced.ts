/** The span of a statement that many callers share: a child of the first who is traced, linked to the others. */
import { type Headers, type Tracing, tracedOf } from '../model/index.ts'

/** What collectors commonly keep of one span. */
const mostLinks = 128

export async function traced<T>(
  tracing: Tracing | undefined,
  name: string,
  items: readonly { message: { headers: Headers | null } }[],
  run: () => Promise<T>,
): Promise<T> {
  const [parent, ...links] = tracing
    ? tracedOf(
        items.map((item) => item.message),
        mostLinks,
      )
    : []
  if (!tracing || !parent) return await run()
  const facts = { 'messaging.batch.message_count': items.length }
  const span = tracing.begin(name, { kind: 'internal', parent, links, facts })
  try {
    const result = await run()
    span.end()
    return result
  } catch (error) {
    span.end(error instanceof Error ? error.message : String(error))
    throw error
  }
}
