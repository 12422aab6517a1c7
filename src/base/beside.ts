/**
 * When to begin a run beside one under way, of what gathers meanwhile: only when so much weight waits, or the oldest of it has waited so
 * long, for small runs side by side cost more than one that is larger.
 */
import { after, monotonicMs } from './clock.ts'

export type Beside = { weight: number; afterMs: number }

/** Whether what waits, the oldest since `sinceMs`, is worth another run; if not yet, `look` is called when it will be. */
export function worthBeside(
  { weight, afterMs }: Beside,
  look: () => void,
): (waiting: number, sinceMs: number) => boolean {
  let looking = false
  return (waiting, sinceMs) => {
    const leftMs = sinceMs + afterMs - monotonicMs()
    if (waiting >= weight || leftMs <= 0) return true
    if (!looking) {
      looking = true
      after(leftMs, () => {
        looking = false
        look()
      })
    }
    return false
  }
}
