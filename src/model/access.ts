/** API keys and what they may do. */
import type { Rate } from './rate.ts'

export const actions = ['send', 'receive', 'read', 'manage'] as const
export type Action = (typeof actions)[number]

/** Names are patterns in which `*` stands for any run of characters: `orders.*`, `*`. */
export type Scope = { actions: Action[]; queues: string[]; topics: string[] }

/** Who is calling. `root` may do everything, keys included. `rate`: how many requests; null: as many as any key. */
export type Principal = { id: string; root: boolean; scopes: readonly Scope[]; rate: Rate | null }

/** What a caller says of a new key. */
export type NewKey = { name: string; scopes: Scope[]; expiresAt: Date | null; rate: Rate | null }
export type ApiKey = NewKey & { id: string; createdAt: Date }

export const rootPrincipal: Principal = { id: 'root', root: true, scopes: [], rate: null }

/** Whether a name matches a pattern in which `*` stands for any run of characters. Linear in both lengths. */
export function nameMatches(pattern: string, name: string): boolean {
  let p = 0
  let n = 0
  let star = -1
  let mark = 0
  while (n < name.length) {
    if (p < pattern.length && pattern[p] === '*') {
      star = p++
      mark = n
    } else if (p < pattern.length && pattern[p] === name[n]) {
      p++
      n++
    } else if (star >= 0) {
      p = star + 1
      n = ++mark
    } else return false
  }
  while (pattern[p] === '*') p++
  return p === pattern.length
}

/** Whether the caller may do this to that queue or topic. */
export function allows(principal: Principal, action: Action, kind: 'queues' | 'topics', name: string): boolean {
  if (principal.root) return true
  return principal.scopes.some(
    (scope) => scope.actions.includes(action) && scope[kind].some((pattern) => nameMatches(pattern, name)),
  )
}
