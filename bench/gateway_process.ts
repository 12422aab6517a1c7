/** A gateway in a process of its own, compiled as `npm start` and the image have it, that tells its parent how much memory it holds. */
import { createApp } from '#src/app.ts'
import { loadConfig } from '#src/config.ts'
import { createLog } from '#src/log.ts'
import { memory, serveParent } from './child.ts'

const config = loadConfig(process.env, { tty: false })
const app = createApp(config, { log: createLog(config) })
const { url } = await app.start()
serveParent(url, memory, () => app.stop())
