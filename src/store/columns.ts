/** What all tables are made of: their schema, and the types of columns as this program reads them. */
import { bigint, customType, pgSchema, timestamp } from 'drizzle-orm/pg-core'

export const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
export const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' })
export const whole = (name: string) => bigint(name, { mode: 'number' })

export const postern = pgSchema('postern')
