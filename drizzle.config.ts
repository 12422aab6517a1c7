/** For `npm run migration`: generates SQL into migrations/ from the tables. */
import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'postgresql',
  schema: ['./src/store/columns.ts', './src/store/tables.ts', './src/store/webhook_tables.ts'],
  out: './migrations',
  schemaFilter: ['postern'],
})
