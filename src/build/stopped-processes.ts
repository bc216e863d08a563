/**
 * Stops the processes of a build where they are and lets them go on, by signals: for hosts that have no
 * freezer. Whoever leaves the tree and the session of its build, as only a plain one can, goes on.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { hasCode } from '../base/errors.ts'

/** Looks at the processes until none is new: one that was not stopped yet may have begun another. */
const ROUNDS_MAX = 20

interface ProcessEntry {
  readonly pid: number
  readonly parent: number
  readonly session: number
}

/**
 * Sends `signal` to all below `pid`, the oldest first, and to `pid` itself where `isRootIncluded`: what waits
 * for a build outside of its walls has to go on. Returns how many got it.
 */
export function signalTree(
  pid: number,
  signal: 'SIGSTOP' | 'SIGCONT',
  { isRootIncluded }: { readonly isRootIncluded: boolean },
): number {
  const reached = new Set<number>()
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    const fresh = treeOf(pid, isRootIncluded).filter((one) => !reached.has(one))
    if (fresh.length === 0) break
    for (const one of fresh) {
      reached.add(one)
      send(one, signal)
    }
    // What runs again may begin others, which run.
    if (signal === 'SIGCONT') break
  }
  return reached.size
}

function treeOf(root: number, isRootIncluded: boolean): number[] {
  const children = new Map<number, number[]>()
  const ofSession: number[] = []
  for (const { pid, parent, session } of processes()) {
    children.set(parent, [...(children.get(parent) ?? []), pid])
    if (isRootIncluded && session === root && pid !== root) ofSession.push(pid)
  }
  const found = new Set(isRootIncluded ? [root] : (children.get(root) ?? []))
  for (const pid of ofSession) found.add(pid)
  // A Set gives what is added while it is gone through as well.
  for (const pid of found) for (const child of children.get(pid) ?? []) found.add(child)
  return [...found]
}

function processes(): ProcessEntry[] {
  const found: ProcessEntry[] = []
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid)) continue
    try {
      const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
      // After the name, which may hold anything: state, parent, group, session.
      const [, parent, , session] = text.slice(text.lastIndexOf(')') + 2).split(' ')
      found.push({ pid, parent: Number(parent), session: Number(session) })
    } catch (error) {
      if (!hasCode(error, 'ENOENT', 'ESRCH', 'EACCES')) throw error
    }
  }
  return found
}

function send(pid: number, signal: 'SIGSTOP' | 'SIGCONT'): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!hasCode(error, 'ESRCH', 'EPERM')) throw error
  }
}
