/**
 * The fence of a subscription: only the gateway that owns it may lease for it, and only while that gateway is alive by
 * Postgres's clock. It stands inside the statements that lease, so a gateway that was stopped for a while finds it closed.
 */

/** Whether `subscription` (0: nobody in particular) may be delivered to by this gateway. Primary keys of both tables. */
export function fence(subscription: string, gateway: string): string {
  return `(${subscription} = 0 or exists (
      select 1 from postern.subscriptions b join postern.gateways y on y.id = b.owner
      where b.id = ${subscription} and b.owner = ${gateway} and b.disabled is null and y.alive_until > now()))`
}
