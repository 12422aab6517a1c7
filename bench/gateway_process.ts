/** A gateway in a process of its own, compiled as `npm start` and the image have it, that tells its parent how much memory it holds. */
import { memory, serveParent } from './child.ts'

const compiled = async (name: string) => await import(new URL(`../dist/${name}.js`, import.meta.url).href)
const { createApp }: typeof import('../src/app.ts') = await compiled('app')
const { loadConfig }: typeof import('../src/config.ts') = await compiled('config')
const { createLog }: typeof import('../src/log.ts') = await compiled('log')

const config = loadConfig(process.env, { tty: false })
const app = createApp(config, { log: createLog(config) })
const { url } = await app.start()
serveParent(url, memory, () => app.stop())
