/** Schedules, as people create and change them. All changes of one pass under its row's lock, as does its firing. */
import { BrokerError, firstFire, invalid, nextFire, parseCron, type Schedule } from '../model/index.ts'
import type { Database, ScheduleNow } from '../store/index.ts'
import * as store from '../store/index.ts'
import { encodeCursor, textCursor } from './cursor.ts'
import { firing, keep, type Told } from './firing.ts'
import { cronOf, firesOf } from './schedules.ts'
import type { ScheduleAdmin, ScheduleWithFires } from './types.ts'

const firesShown = 5

type Options = { db: Database; told: Told; changed(): void }

export function createScheduleAdmin({ db, told, changed }: Options): ScheduleAdmin {
  /** Throws schedule_not_found, and whatever `check` throws. */
  const locked = <T>(
    name: string,
    check: (schedule: Schedule) => void,
    run: (inside: Database, found: ScheduleNow) => Promise<T>,
  ): Promise<T> =>
    db.together(async (inside) => {
      const found = await store.lockSchedule(inside, name)
      if (!found) throw noSchedule(name)
      check(found.schedule)
      return await run(inside, found)
    })

  async function setPaused(name: string, check: (schedule: Schedule) => void, paused: boolean) {
    const schedule = await locked(name, check, async (inside, { schedule, nowMs }) => {
      if (schedule.paused === paused) return schedule
      const nextMs = paused ? null : nextFire(cronOf(schedule), schedule.timezone, nowMs)
      return (await store.setPaused(inside, name, paused, nextMs)) ?? schedule
    })
    changed()
    return withFires(schedule)
  }

  return {
    async putSchedule(name, { paused, ...settings }, check) {
      const put = await db.together(async (inside) => {
        const found = await store.lockSchedule(inside, name)
        check(found?.schedule ?? null)
        await checkTarget(inside, settings.target)
        const parsed = parseCron(settings.cron)
        if ('error' in parsed) throw invalid('/cron', parsed.error)
        const nowMs = found?.nowMs ?? (await store.transactionTime(inside))
        const nextMs = firstFire(parsed.cron, settings, found?.schedule ?? null, nowMs)
        if (nextMs === null) throw invalid('/cron', 'never fires: there is no such day')
        const wanted = { ...settings, paused: paused ?? found?.schedule.paused ?? false }
        const schedule = await store.putSchedule(inside, name, wanted, nextMs, found !== null)
        if (schedule) return { schedule, created: found === null }
        throw new BrokerError(
          'changed_meanwhile',
          `Somebody else has just created the schedule ${name}: look at it first.`,
        )
      })
      changed()
      return { schedule: withFires(put.schedule), created: put.created }
    },
    async getSchedule(name) {
      const schedule = await store.findSchedule(db, name)
      if (!schedule) throw noSchedule(name)
      return withFires(schedule)
    },
    async listSchedules({ limit, cursor, may }) {
      const shown: Schedule[] = []
      let bytes = 0
      for (let after = textCursor(cursor); ; ) {
        const { schedules, more } = await store.listSchedules(db, after, limit + 1)
        for (const schedule of schedules) {
          bytes += may(schedule) ? schedule.message.body.length : 0
          const full = shown.length === limit || (shown.length > 0 && bytes > store.schedulesBytes)
          if (full) return { data: shown.map(withFires), nextCursor: encodeCursor({ after }) }
          after = schedule.name
          if (may(schedule)) shown.push(schedule)
        }
        if (!more) return { data: shown.map(withFires), nextCursor: null }
      }
    },
    deleteSchedule: (name, check) => locked(name, check, (inside) => store.deleteSchedule(inside, name)),
    pauseSchedule: (name, check) => setPaused(name, check, true),
    resumeSchedule: (name, check) => setPaused(name, check, false),
    async runSchedule(name, check) {
      const later = keep(told)
      const fire = await locked(name, check, async (inside, { schedule, nowMs }) => {
        const fire = await firing(inside, schedule, nowMs, later.told)
        const nextMs = schedule.nextFireAt?.getTime() ?? null
        await store.recordFires(inside, [{ name, nextMs, fire: { ...fire, error: fire.error?.message ?? null } }])
        return fire
      })
      later.tell()
      if (fire.messageId === null) throw fire.error?.code === 'internal' ? fire.error.cause : fire.error
      return { id: fire.messageId, at: new Date(fire.atMs) }
    },
  }
}

async function checkTarget(db: Database, target: Schedule['target']): Promise<void> {
  if ('topic' in target) {
    const topic = await store.findTopic(db, target.topic)
    if (!topic) throw invalid('/topic', `there is no topic ${target.topic}: create it first`)
    return
  }
  const [queue] = await store.queuesByName(db, [target.queue])
  if (!queue || queue.backlog) throw invalid('/queue', `there is no queue ${target.queue}: create it first`)
}

const withFires = (schedule: Schedule): ScheduleWithFires => ({ ...schedule, nextFires: firesOf(schedule, firesShown) })

const noSchedule = (name: string): BrokerError =>
  new BrokerError('schedule_not_found', `There is no schedule ${name}: create it with PUT /v1/schedules/${name}.`)
