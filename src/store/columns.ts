/** The columns that the tables are made of, and the schema in which they lie. */
import { bigint, customType, pgSchema, timestamp } from 'drizzle-orm/pg-core'

export const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
export const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' })
export const whole = (name: string) => bigint(name, { mode: 'number' })

export const postern = pgSchema('postern')
